//! Any bytes as what comes from outside: an upstream's reply that is checked, kept, grown old and cut; a resolv.conf.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netd_dns::{ResolvConf, Upstream, fuzzing};

fuzz_target!(|data: &[u8]| {
    fuzzing::upstream_reply(data);
    let text = String::from_utf8_lossy(data);
    let conf = ResolvConf::parse(&text);
    assert!(conf.nameservers.len() <= text.lines().count());
    if let Ok(upstream) = text.parse::<Upstream>() {
        assert_eq!(upstream.to_string().parse(), Ok(upstream));
    }
});
