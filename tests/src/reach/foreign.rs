//! Another program's firewall: a base chain in the forward hook whose policy is drop.
//!
//! Owns the few nf_tables messages for it, written by hand, and the few statements that netd's
//! warning tells the administrator to put into such a chain.

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Netns;

/// How the chain is called where it is talked about: family, table, chain.
const NAME: &str = "inet foreign forward";
const TABLE: &str = "foreign";
const CHAIN: &str = "forward";

/// The chain in the forward hook of a namespace.
#[derive(Debug)]
pub struct Foreign<'a>(&'a Netns);

impl<'a> Foreign<'a> {
    /// Its name.
    pub const NAME: &'static str = NAME;

    /// Makes the chain: it drops all that it is shown.
    pub fn create(netns: &Netns) {
        let table = attr(1, &text(TABLE));
        let hook = [attr(1, &NF_INET_FORWARD.to_be_bytes()), attr(2, &[0; 4])].concat();
        let chain = [
            attr(NFTA_TABLE, &text(TABLE)),
            attr(3, &text(CHAIN)),
            nest(4, &hook),
            attr(5, &NF_DROP.to_be_bytes()),
            attr(7, &text("filter")),
        ];
        commit(netns, &[(NFT_MSG_NEWTABLE, table), (NFT_MSG_NEWCHAIN, chain.concat())]);
    }
}
