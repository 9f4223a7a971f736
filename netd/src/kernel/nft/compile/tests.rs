use netd_model::id::hex;
use netd_model::net::IfName;
use netd_model::nft::digest::ENCODING;

use super::*;

fn compiled(stmts: &[Stmt]) -> Result<Writer, Unsupported> {
    let mut w = Writer::default();
    rule(TableFamily::Inet, stmts, &mut w).map(|()| w)
}

#[test]
fn rules_that_cannot_work_are_refused() {
    let daddr = |family, len| Stmt::InPrefix {
        left: Expr::Daddr(family),
        prefix: Prefix::holding(family.unspecified(), len),
    };
    let both = [daddr(Family::V4, 8), daddr(Family::V6, 8)];
    assert_eq!(compiled(&both).unwrap_err(), Unsupported::TwoFamilies);

    let port = |left| Stmt::Match {
        left,
        right: Datum::Port(53),
        invert: false,
    };
    assert_eq!(
        compiled(&[port(Expr::Dport)]).unwrap_err(),
        Unsupported::PortWithoutProtocol
    );
    assert_eq!(
        compiled(&[Stmt::SetSport(1)]).unwrap_err(),
        Unsupported::PortWithoutProtocol
    );
    assert_eq!(
        compiled(&[port(Expr::NfProto)]).unwrap_err(),
        Unsupported::Types
    );

    let prefix = Prefix::holding(Family::V6.unspecified(), 8);
    let wrong = Stmt::InPrefix {
        left: Expr::Daddr(Family::V4),
        prefix,
    };
    assert_eq!(compiled(&[wrong]).unwrap_err(), Unsupported::Types);
}

#[test]
fn masks_are_the_first_bits() {
    assert_eq!(mask(4, 10), [0xff, 0xc0, 0, 0]);
    assert_eq!(mask(4, 31), [0xff, 0xff, 0xff, 0xfe]);
    assert_eq!(mask(16, 1)[..2], [0x80, 0]);
}

/// One of each statement, in forms that take different ways through the compiler.
fn samples() -> Vec<Vec<Stmt>> {
    let is = |left, right, invert| Stmt::Match {
        left,
        right,
        invert,
    };
    let within = |left, text: &str| Stmt::InPrefix {
        left,
        prefix: text.parse().unwrap(),
    };
    let lookup = |key: &[Expr], invert| Stmt::Lookup {
        key: key.to_vec(),
        set: "s".into(),
        invert,
    };
    let map = "m".to_owned();
    let port = |number, port| {
        let proto = is(Expr::L4Proto, Datum::L4Proto(number), false);
        vec![proto, is(port, Datum::Port(53), false)]
    };
    let address = Datum::Ip4([127, 0, 0, 11].into());
    let verdict = |verdict| vec![Stmt::Verdict(verdict)];
    vec![
        vec![
            is(Expr::Iifname, Datum::Ifname(IfName::lo()), true),
            Stmt::Notrack,
        ],
        vec![
            is(Expr::Daddr(Family::V4), address, false),
            Stmt::Masquerade,
        ],
        vec![within(Expr::Saddr(Family::V4), "127.0.0.0/8")],
        vec![within(Expr::Daddr(Family::V6), "fe80::/10")],
        vec![within(Expr::Saddr(Family::V6), "::1/128")],
        vec![lookup(&[Expr::Oifname, Expr::Saddr(Family::V6)], true)],
        vec![lookup(&[Expr::NfProto], false), Stmt::FibDaddrLocal],
        vec![Stmt::VerdictMap {
            key: vec![Expr::Oifname, Expr::NfProto],
            map: map.clone(),
        }],
        vec![Stmt::DnatMap {
            family: Family::V4,
            key: vec![Expr::Daddr(Family::V4), Expr::L4Proto, Expr::Dport],
            map: map.clone(),
        }],
        vec![Stmt::DnatMap {
            family: Family::V6,
            key: vec![Expr::L4Proto, Expr::Dport],
            map,
        }],
        vec![
            Stmt::CtState(CtState::Invalid),
            Stmt::CtState(CtState::EstablishedRelated),
        ],
        vec![Stmt::CtState(CtState::New), Stmt::CtStatusDnat],
        vec![Stmt::CtState(CtState::Untracked), Stmt::CtStatusSnat],
        vec![Stmt::CtOriginal],
        vec![Stmt::CtReply],
        [port(6, Expr::Sport), vec![Stmt::SetSport(40053)]].concat(),
        [port(17, Expr::Dport), vec![Stmt::SetDport(40053)]].concat(),
        verdict(Verdict::Accept),
        verdict(Verdict::Drop),
        verdict(Verdict::Return),
        verdict(Verdict::Goto("c".to_owned())),
        verdict(Verdict::Jump("c".to_owned())),
    ]
}

/// When this fails, a statement is written in another way than before: raise `nft::digest::ENCODING`, so that the
/// tables which earlier versions wrote are seen as different, and put the new digest here.
#[test]
#[cfg(target_endian = "little")]
fn the_bytecode_of_an_encoding_never_changes() {
    let all: Vec<_> = samples()
        .iter()
        .map(|r| hex(compiled(r).unwrap().bytes()))
        .collect();
    let digest = netd_model::id::digest(&[ENCODING, &all.join("\n")], 16);
    assert_eq!(digest, "56d788474bbf96af");
}
