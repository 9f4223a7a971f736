//! Configuration, prevResult and `CNI_ARGS`: any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| netd_cni::fuzzing::any_input(input));
