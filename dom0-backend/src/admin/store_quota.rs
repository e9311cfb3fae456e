//! What domains have of the store, of what they may, and what they were refused.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::json;

use super::answer::{Answer, Listing};
use crate::store::{Account, Limits};

/// The list, a row for each domain, and below it for people what a guest may have.
pub fn show(accounts: &[Account], limits: &Limits) -> Answer {
    let mut listing = Listing::new(&[
        ("Name", "name"),
        ("ID", "id"),
        ("Nodes", "nodes"),
        ("Watches", "watches"),
        ("Transactions", "transactions"),
        ("Bytes", "bytes"),
        ("Refused", "refused"),
    ]);
    for account in accounts {
        let usage = &account.usage;
        let mut row = Vec::from([json!(account.name), json!(account.domain.0)]);
        row.extend([usage.nodes, usage.watches, usage.transactions, usage.bytes].map(|used| json!(used)));
        row.push(json!(refused(account)));
        listing.push(row);
    }
    let mut answer = listing.answer();
    answer.text += &format!(
        "A guest may have {} nodes, {} watches, {} transactions, {} bytes.\n",
        limits.nodes, limits.watches, limits.transactions, limits.memory
    );
    answer
}

fn refused(account: &Account) -> String {
    let kinds = account.refused.iter().map(|(count, excess)| format!("{count} times: {excess}"));
    kinds.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Excess, Quota, Usage};
    use hypercall_abi::DomainId;

    #[test]
    fn a_guest_is_told_of_with_its_limits_and_what_it_hit() {
        let usage = Usage { nodes: 1000, watches: 3, transactions: 0, bytes: 4096 };
        let excess = Excess { quota: Quota::Nodes, wanted: 1001, limit: 1000 };
        let guest =
            Account { domain: DomainId(3), name: "web".into(), usage, refused: Vec::from([(7, excess)]) };
        let answer = show(&[guest], &Limits::default());
        assert_eq!(
            answer.text,
            "Name  ID  Nodes  Watches  Transactions  Bytes  Refused\n\
             web   3   1000   3        0             4096   7 times: 1000 nodes, 1001 asked for\n\
             A guest may have 1000 nodes, 128 watches, 10 transactions, 2621440 bytes.\n"
        );
        assert_eq!(answer.json[0]["nodes"], json!(1000));
    }
}
