//! A ruleset in the language of `nft`: for documentation, golden tests, and a person's eye. netd never reads it back.

use std::fmt::Write as _;

use super::{
    Chain, ChainKind, CtState, Datum, Expr, Field, HookPoint, Ruleset, SetKind, SetSpec, Stmt,
    Verdict,
};
use crate::net::Family;

/// The ruleset as a file that `nft -f` takes.
pub fn render(ruleset: &Ruleset) -> String {
    let mut text = format!(
        "table {} {} {{\n",
        ruleset.table.family.as_str(),
        ruleset.table.name
    );
    let _ = writeln!(text, "\tcomment \"{}\"", ruleset.owner);
    for set in &ruleset.sets {
        text.push_str(&render_set(set));
    }
    for chain in &ruleset.chains {
        text.push('\n');
        text.push_str(&render_chain(chain));
    }
    text.push_str("}\n");
    text
}

fn render_set(set: &SetSpec) -> String {
    let what = if set.kind == SetKind::Set {
        "set"
    } else {
        "map"
    };
    let data = match &set.kind {
        SetKind::Set => String::new(),
        SetKind::Map(fields) => format!(" : {}", types(fields)),
        SetKind::VerdictMap => " : verdict".to_owned(),
    };
    let flags = if set.interval { " flags interval;" } else { "" };
    let size = set
        .size
        .map_or_else(String::new, |size| format!(" size {size};"));
    // What has no type of its own is of the type of the expression.
    let word = if set.key == [Field::Vni] {
        "typeof"
    } else {
        "type"
    };
    format!(
        "\t{what} {} {{ {word} {}{data};{size}{flags} }}\n",
        set.name,
        types(&set.key)
    )
}

fn types(fields: &[Field]) -> String {
    let name = |field: &Field| match field {
        Field::Ifname => "ifname",
        Field::Ip4 => "ipv4_addr",
        Field::Ip6 => "ipv6_addr",
        Field::L4Proto => "inet_proto",
        Field::Port => "inet_service",
        Field::NfProto => "nf_proto",
        Field::Mac => "ether_addr",
        Field::EtherType => "ether_type",
        Field::ArpOp => "arp_op",
        Field::Icmp6Type => "icmpv6_type",
        // `nft` has no word for it: 24 bits of the payload.
        Field::Vni => "@th,96,24",
    };
    fields.iter().map(name).collect::<Vec<_>>().join(" . ")
}

fn render_chain(chain: &Chain) -> String {
    let mut text = format!("\tchain {} {{\n", chain.name);
    if let Some(hook) = &chain.hook {
        let kind = match hook.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let point = match hook.point {
            HookPoint::Prerouting => "prerouting",
            HookPoint::Input => "input",
            HookPoint::Forward => "forward",
            HookPoint::Output => "output",
            HookPoint::Postrouting => "postrouting",
        };
        let _ = writeln!(
            text,
            "\t\ttype {kind} hook {point} priority {}; policy accept;",
            hook.priority
        );
    }
    for rule in chain.rules.iter().flatten() {
        let _ = writeln!(text, "\t\t{}", render_rule(rule));
    }
    text.push_str("\t}\n");
    text
}

/// One rule on one line.
pub fn render_rule(rule: &[Stmt]) -> String {
    let mut words = Vec::new();
    // `udp dport 53` implies the match on the protocol; nft knows the checksum to fix only from that form.
    let mut proto = "th";
    for (index, stmt) in rule.iter().enumerate() {
        if let Stmt::Match {
            left: Expr::L4Proto,
            right: Datum::L4Proto(number),
            invert: false,
        } = stmt
        {
            proto = transport(*number);
            let port = |next: &Stmt| {
                matches!(
                    next,
                    Stmt::Match {
                        left: Expr::Sport | Expr::Dport,
                        invert: false,
                        ..
                    }
                )
            };
            if proto != "th" && rule.get(index + 1).is_some_and(port) {
                continue;
            }
        }
        words.push(render_stmt(stmt, proto));
    }
    words.join(" ")
}

fn transport(number: u8) -> &'static str {
    match number {
        6 => "tcp",
        17 => "udp",
        _ => "th",
    }
}

fn render_stmt(stmt: &Stmt, proto: &str) -> String {
    let not = |invert: &bool| if *invert { "!= " } else { "" };
    match stmt {
        Stmt::Match {
            left,
            right,
            invert,
        } => {
            format!("{} {}{}", expr(*left, proto), not(invert), value(right))
        }
        Stmt::InPrefix { left, prefix } => format!("{} {prefix}", expr(*left, proto)),
        Stmt::Lookup { key, set, invert } => format!("{} {}@{set}", concat(key), not(invert)),
        Stmt::VerdictMap { key, map } => format!("{} vmap @{map}", concat(key)),
        Stmt::DnatMap { family, key, map } => {
            format!(
                "dnat {} to {} map @{map}",
                family_word(*family),
                concat(key)
            )
        }
        Stmt::CtState(CtState::Invalid) => "ct state invalid".to_owned(),
        Stmt::CtState(CtState::EstablishedRelated) => "ct state established,related".to_owned(),
        Stmt::CtState(CtState::Untracked) => "ct state untracked".to_owned(),
        Stmt::CtState(CtState::New) => "ct state new".to_owned(),
        Stmt::CtStatusDnat => "ct status dnat".to_owned(),
        Stmt::CtStatusSnat => "ct status snat".to_owned(),
        Stmt::CtOriginal => "ct direction original".to_owned(),
        Stmt::ToGroup => "@ll,0,8 & 0x01 == 0x01".to_owned(),
        Stmt::CtReply => "ct direction reply".to_owned(),
        Stmt::FibDaddrLocal => "fib daddr type local".to_owned(),
        Stmt::Masquerade => "masquerade".to_owned(),
        Stmt::SnatMap { family, key, map } => {
            format!(
                "snat {} to {} map @{map}",
                family_word(*family),
                concat(key)
            )
        }
        Stmt::Notrack => "notrack".to_owned(),
        Stmt::SetSport(port) => format!("{proto} sport set {port}"),
        Stmt::SetDport(port) => format!("{proto} dport set {port}"),
        Stmt::Verdict(to) => verdict(to),
    }
}

fn value(datum: &Datum) -> String {
    match datum {
        Datum::Ifname(name) => format!("\"{name}\""),
        other => other.to_string(),
    }
}

/// A verdict as written in a rule or in a verdict map.
pub fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Goto(chain) => format!("goto {chain}"),
        Verdict::Jump(chain) => format!("jump {chain}"),
    }
}

fn concat(key: &[Expr]) -> String {
    key.iter()
        .map(|part| expr(*part, "th"))
        .collect::<Vec<_>>()
        .join(" . ")
}

fn expr(expr: Expr, proto: &str) -> String {
    match expr {
        Expr::Iifname => "iifname".to_owned(),
        Expr::Oifname => "oifname".to_owned(),
        Expr::NfProto => "meta nfproto".to_owned(),
        Expr::L4Proto => "meta l4proto".to_owned(),
        Expr::Saddr(family) => format!("{} saddr", family_word(family)),
        Expr::Daddr(family) => format!("{} daddr", family_word(family)),
        Expr::Sport => format!("{proto} sport"),
        Expr::Dport => format!("{proto} dport"),
        Expr::EtherType => "ether type".to_owned(),
        Expr::EtherSaddr => "ether saddr".to_owned(),
        Expr::ArpOp => "arp operation".to_owned(),
        Expr::ArpSha => "arp saddr ether".to_owned(),
        Expr::ArpSpa => "arp saddr ip".to_owned(),
        Expr::Icmp6Type => "icmpv6 type".to_owned(),
        // `icmpv6 taddr` came with nft 1.0.7.
        Expr::NdTarget => "@th,64,128".to_owned(),
        Expr::Vni => "@th,96,24".to_owned(),
    }
}

const fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
