//! `docs/errors.md` lists every code, its HTTP status and its meaning, as the source has them.

use netd_model::error::Code;

#[test]
fn the_documented_codes_are_those_of_the_source() {
    // Those of the command line follow, and are checked where they stand.
    let documented = include_str!("../../docs/errors.md")
        .split("## Codes of netctl")
        .next()
        .unwrap();
    let rows: Vec<&str> = documented
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let expected: Vec<String> = Code::ALL
        .iter()
        .map(|code| format!("| `{code}` | {} | {} |", code.http_status(), code.meaning()))
        .collect();
    assert_eq!(
        rows,
        expected,
        "docs/errors.md should have these rows:\n{}",
        expected.join("\n")
    );
}
