//! The toolstack's wishes: `shutdown`, as it is written to the store.

use pv_runtime::power::{Shutdown, shutdown};
use pv_runtime::xenbus::{Store, StoreError};

/// Where the toolstack writes its wish.
const WISH: &str = "control/shutdown";
/// The wishes that are obeyed.
const WISHES: [(&str, Shutdown); 3] =
    [("poweroff", Shutdown::PowerOff), ("halt", Shutdown::PowerOff), ("reboot", Shutdown::Reboot)];
/// Where the guest says which wishes it knows. A toolstack that wants to be told has made these nodes.
const ANNOUNCEMENTS: [&str; 2] = ["control/feature-poweroff", "control/feature-reboot"];

/// Obeys the toolstack until the domain ends.
///
/// # Errors
///
/// If the store cannot be used.
pub async fn obey_toolstack(store: Store) -> Result<(), StoreError> {
    for node in ANNOUNCEMENTS {
        if let Err(error) = store.write(node, "1").await {
            log::debug!("{node}: {error}");
        }
    }
    let watch = store.watch(WISH).await?;
    loop {
        watch.next().await;
        let wish = match store.read(WISH).await {
            Ok(wish) => wish,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        if let Some((word, how)) = WISHES.into_iter().find(|(word, _)| *word == wish) {
            // An empty value says that the wish was heard.
            store.write(WISH, "").await?;
            log::info!("the toolstack wants: {word}");
            shutdown(how);
        }
    }
}
