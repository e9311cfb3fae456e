//! The toolstack's wishes: `shutdown`, as it is written to the store.

use pv_runtime::power::{Shutdown, shutdown};
use pv_runtime::xenbus::{Store, StoreError};

/// Where the toolstack writes its wish.
const WISH: &str = "control/shutdown";
/// The wishes that are obeyed, and where that is announced.
const WISHES: [(&str, &str, Shutdown); 3] = [
    ("poweroff", "control/feature-poweroff", Shutdown::PowerOff),
    ("halt", "control/feature-halt", Shutdown::PowerOff),
    ("reboot", "control/feature-reboot", Shutdown::Reboot),
];

/// Obeys the toolstack until the domain ends.
///
/// # Errors
///
/// If the store cannot be used.
pub async fn obey_toolstack(store: Store) -> Result<(), StoreError> {
    for (_, feature, _) in WISHES {
        store.write(feature, "1").await?;
    }
    let watch = store.watch(WISH).await?;
    loop {
        watch.next().await;
        let wish = match store.read(WISH).await {
            Ok(wish) => wish,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        if let Some((word, _, how)) = WISHES.into_iter().find(|(word, ..)| *word == wish) {
            // An empty value says that the wish was heard.
            store.write(WISH, "").await?;
            log::info!("the toolstack wants: {word}");
            shutdown(how);
        }
    }
}
