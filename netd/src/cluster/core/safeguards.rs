//! What the simulation takes away, one at a time.

/// Safeguards that the simulation takes away one at a time, to see that each is needed. All are on.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a safeguard of its own"
)]
pub struct Safeguards {
    /// Own records are written again after each list.
    pub republish: bool,
    /// What vanished between two lists is removed.
    pub relist: bool,
    /// A store that was emptied or restored takes nothing away.
    pub distrust_reset: bool,
    /// A store is asked whether it has the last write that was seen in it.
    pub ask_history: bool,
    /// The keys of a store are compared with what is known of them.
    pub compare_keys: bool,
    /// Where it cannot be told whether a store was restored, stations that are missing are not gone yet.
    pub doubt_gaps: bool,
    /// A host that was removed while it was away gives up what others hold since.
    pub heed_removal: bool,
    /// A claim is made only where nobody has one.
    pub create_if_absent: bool,
    /// Pauses grow while the store does not answer.
    pub backoff: bool,
    /// A claim is forgotten by the disk before it is given back.
    pub forget_first: bool,
}

impl Default for Safeguards {
    fn default() -> Self {
        Self {
            republish: true,
            relist: true,
            distrust_reset: true,
            ask_history: true,
            compare_keys: true,
            doubt_gaps: true,
            heed_removal: true,
            create_if_absent: true,
            backoff: true,
            forget_first: true,
        }
    }
}
