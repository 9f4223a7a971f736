//! From statements to the kernel's expressions: what `nft` would emit for the same rule, byte for byte where it matters
//! (a test compares the two).

use std::net::IpAddr;

use netd_model::net::{Family, Prefix, Proto};
use netd_model::nft::{CtState, Datum, Expr, Field, Stmt, TableFamily, Verdict, wire};

use super::abi::*;
use super::attr::Writer;

/// A rule that makes no sense to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsupported {
    /// It looks at addresses of both families: it would never match.
    #[error("a rule on addresses of both families")]
    TwoFamilies,
    /// Ports, checksums and types are at known places only within their protocols.
    #[error("a transport header without a match on its protocol before it")]
    PortWithoutProtocol,
    /// The left side has another type than the right side.
    #[error("a comparison of different types")]
    Types,
}

/// Writes the expressions of a rule in a table of this family as items of `NFTA_RULE_EXPRESSIONS`.
pub(super) fn rule(table: TableFamily, stmts: &[Stmt], w: &mut Writer) -> Result<(), Unsupported> {
    let mut rule = Rule {
        w,
        table,
        protocol: None,
        proto: None,
    };
    stmts.iter().try_for_each(|stmt| rule.stmt(stmt))
}

/// Writes a verdict as the attributes of a data attribute.
pub(super) fn verdict(verdict: &Verdict, w: &mut Writer) {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
    };
    w.nest(NFTA_DATA_VERDICT, |w| {
        w.put_u32(NFTA_VERDICT_CODE, code);
        if let Some(chain) = chain {
            w.put_text(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// The number of the register that begins at a 4-byte word: as `nft` does, the name of a 16-byte one where possible.
const fn register(word: u32) -> u32 {
    if word.is_multiple_of(4) {
        NFT_REG_1 + word / 4
    } else {
        NFT_REG32_00 + word
    }
}

/// Where values that live no longer than a statement are put.
const SCRATCH: u32 = register(0);

struct Rule<'a> {
    w: &'a mut Writer,
    table: TableFamily,
    /// The network protocol that the packet has, as far as the rule has compared it.
    protocol: Option<Protocol>,
    /// Its transport protocol, likewise.
    proto: Option<u8>,
}

/// A network protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Ip(Family),
    Arp,
}

impl Protocol {
    /// `ETH_P_*` (linux/if_ether.h).
    const fn ether_type(self) -> u16 {
        match self {
            Self::Ip(Family::V4) => 0x0800,
            Self::Ip(Family::V6) => 0x86dd,
            Self::Arp => 0x0806,
        }
    }
}

/// Transport protocols whose headers are looked into (IANA).
const TCP: u8 = Proto::Tcp.number();
const UDP: u8 = Proto::Udp.number();
const ICMPV6: u8 = 58;

impl Rule<'_> {
    fn stmt(&mut self, stmt: &Stmt) -> Result<(), Unsupported> {
        match stmt {
            Stmt::Match {
                left,
                right,
                invert,
            } => self.compare(*left, right, *invert)?,
            Stmt::InPrefix { left, prefix } => self.in_prefix(*left, *prefix)?,
            Stmt::Lookup { key, set, invert } => {
                self.key(key)?;
                self.lookup(set, None, *invert);
            }
            Stmt::VerdictMap { key, map } => {
                self.key(key)?;
                self.lookup(map, Some(NFT_REG_VERDICT), false);
            }
            Stmt::DnatMap { family, key, map } => {
                self.key(key)?;
                self.lookup(map, Some(SCRATCH), false);
                self.dnat(*family);
            }
            Stmt::SnatMap { family, key, map } => {
                self.key(key)?;
                self.lookup(map, Some(SCRATCH), false);
                self.snat(*family);
            }
            Stmt::CtState(state) => self.conntrack(NFT_CT_STATE, state_bits(*state)),
            Stmt::CtStatusDnat => self.conntrack(NFT_CT_STATUS, IPS_DST_NAT),
            Stmt::CtStatusSnat => self.conntrack(NFT_CT_STATUS, IPS_SRC_NAT),
            Stmt::CtOriginal => self.direction(IP_CT_DIR_ORIGINAL),
            Stmt::CtReply => self.direction(IP_CT_DIR_REPLY),
            Stmt::ToGroup => self.for_group(),
            Stmt::FibDaddrLocal => self.fib_daddr_local(),
            Stmt::Masquerade => self.expression("masq", |_| ()),
            Stmt::Notrack => self.expression("notrack", |_| ()),
            Stmt::SetSport(port) => self.set_port(SPORT, *port)?,
            Stmt::SetDport(port) => self.set_port(DPORT, *port)?,
            Stmt::Verdict(to) => self.expression("immediate", |w| {
                w.put_u32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                w.nest(NFTA_IMMEDIATE_DATA, |w| verdict(to, w));
            }),
        }
        Ok(())
    }

    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Writer)) {
        self.w.nest(NFTA_LIST_ELEM, |w| {
            w.put_text(NFTA_EXPR_NAME, name);
            w.nest(NFTA_EXPR_DATA, body);
        });
    }

    /// Loads the parts of a key side by side, each beginning at a register of its own.
    fn key(&mut self, parts: &[Expr]) -> Result<(), Unsupported> {
        // First the comparisons that the parts need: they use the same registers.
        for part in parts {
            self.need(*part)?;
        }
        let mut word = 0;
        for part in parts {
            self.load(*part, register(word));
            word += words(part.field());
        }
        Ok(())
    }

    /// Compares what the expression takes for granted, once in a rule.
    fn need(&mut self, expr: Expr) -> Result<(), Unsupported> {
        let protocol = match expr {
            Expr::Saddr(family) | Expr::Daddr(family) => Protocol::Ip(family),
            Expr::ArpOp | Expr::ArpSha | Expr::ArpSpa => Protocol::Arp,
            Expr::Icmp6Type => return self.need_icmpv6(),
            // The target follows the type in the same header.
            Expr::NdTarget if self.proto != Some(ICMPV6) => {
                return Err(Unsupported::PortWithoutProtocol);
            }
            _ => return Ok(()),
        };
        self.need_protocol(protocol)
    }

    fn need_protocol(&mut self, protocol: Protocol) -> Result<(), Unsupported> {
        match self.protocol {
            Some(known) if known == protocol => Ok(()),
            Some(_) => Err(Unsupported::TwoFamilies),
            None => {
                self.protocol = Some(protocol);
                self.compare_protocol(protocol)
            }
        }
    }

    fn need_icmpv6(&mut self) -> Result<(), Unsupported> {
        match self.proto {
            Some(ICMPV6) => Ok(()),
            Some(_) => Err(Unsupported::PortWithoutProtocol),
            None => {
                self.proto = Some(ICMPV6);
                self.need_protocol(Protocol::Ip(Family::V6))?;
                self.load(Expr::L4Proto, SCRATCH);
                self.cmp(NFT_CMP_EQ, &[ICMPV6]);
                Ok(())
            }
        }
    }

    fn compare_protocol(&mut self, protocol: Protocol) -> Result<(), Unsupported> {
        match (self.table, protocol) {
            (TableFamily::Inet, Protocol::Ip(family)) => {
                self.load(Expr::NfProto, SCRATCH);
                self.cmp(NFT_CMP_EQ, &[family.nfproto()]);
            }
            // A bridge's packets are all of NFPROTO_BRIDGE. Which of the two `nft` asks depends on the field.
            (TableFamily::Bridge, Protocol::Ip(_)) if self.proto != Some(ICMPV6) => {
                self.meta(NFT_META_PROTOCOL, SCRATCH);
                self.cmp(NFT_CMP_EQ, &protocol.ether_type().to_be_bytes());
            }
            (TableFamily::Bridge, _) => {
                self.load(Expr::EtherType, SCRATCH);
                self.cmp(NFT_CMP_EQ, &protocol.ether_type().to_be_bytes());
            }
            (TableFamily::Inet, Protocol::Arp) => return Err(Unsupported::TwoFamilies),
        }
        Ok(())
    }

    fn load(&mut self, expr: Expr, into: u32) {
        match expr {
            Expr::Iifname => self.meta(NFT_META_IIFNAME, into),
            Expr::Oifname => self.meta(NFT_META_OIFNAME, into),
            Expr::NfProto => self.meta(NFT_META_NFPROTO, into),
            Expr::L4Proto => self.meta(NFT_META_L4PROTO, into),
            _ => self.payload(expr, size(expr.field()), into),
        }
    }

    fn meta(&mut self, key: u32, into: u32) {
        self.expression("meta", |w| {
            w.put_u32(NFTA_META_DREG, into);
            w.put_u32(NFTA_META_KEY, key);
        });
    }

    /// Loads the first bytes of a header field.
    fn payload(&mut self, expr: Expr, len: u32, into: u32) {
        let (base, offset) = match expr {
            // struct iphdr and struct ipv6hdr
            Expr::Saddr(Family::V4) => (NFT_PAYLOAD_NETWORK_HEADER, 12),
            Expr::Daddr(Family::V4) => (NFT_PAYLOAD_NETWORK_HEADER, 16),
            // And the sender of struct arphdr, behind it the addresses of Ethernet and IPv4.
            Expr::Saddr(Family::V6) | Expr::ArpSha => (NFT_PAYLOAD_NETWORK_HEADER, 8),
            Expr::Daddr(Family::V6) => (NFT_PAYLOAD_NETWORK_HEADER, 24),
            Expr::Sport => (NFT_PAYLOAD_TRANSPORT_HEADER, SPORT),
            Expr::Dport => (NFT_PAYLOAD_TRANSPORT_HEADER, DPORT),
            // struct ethhdr
            Expr::EtherSaddr => (NFT_PAYLOAD_LL_HEADER, 6),
            Expr::EtherType => (NFT_PAYLOAD_LL_HEADER, 12),
            // struct arphdr and the addresses of Ethernet and IPv4 behind it
            Expr::ArpOp => (NFT_PAYLOAD_NETWORK_HEADER, 6),
            Expr::ArpSpa => (NFT_PAYLOAD_NETWORK_HEADER, 14),
            // struct icmp6hdr and struct nd_msg
            Expr::Icmp6Type => (NFT_PAYLOAD_TRANSPORT_HEADER, 0),
            Expr::NdTarget => (NFT_PAYLOAD_TRANSPORT_HEADER, 8),
            // struct vxlanhdr behind struct udphdr
            Expr::Vni => (NFT_PAYLOAD_TRANSPORT_HEADER, 12),
            // Not in a header: load() sends them to meta().
            Expr::Iifname | Expr::Oifname | Expr::NfProto | Expr::L4Proto => return,
        };
        self.expression("payload", |w| {
            w.put_u32(NFTA_PAYLOAD_DREG, into);
            w.put_u32(NFTA_PAYLOAD_BASE, base);
            w.put_u32(NFTA_PAYLOAD_OFFSET, offset);
            w.put_u32(NFTA_PAYLOAD_LEN, len);
        });
    }

    fn cmp(&mut self, op: u32, value: &[u8]) {
        self.expression("cmp", |w| {
            w.put_u32(NFTA_CMP_SREG, SCRATCH);
            w.put_u32(NFTA_CMP_OP, op);
            w.nest(NFTA_CMP_DATA, |w| w.put(NFTA_DATA_VALUE, value));
        });
    }

    fn compare(&mut self, left: Expr, right: &Datum, invert: bool) -> Result<(), Unsupported> {
        if left.field() != right.field() {
            return Err(Unsupported::Types);
        }
        if matches!(left, Expr::Sport | Expr::Dport) && !matches!(self.proto, Some(TCP | UDP)) {
            return Err(Unsupported::PortWithoutProtocol);
        }
        self.need(left)?;
        self.load(left, SCRATCH);
        let value = wire::encode(std::slice::from_ref(right));
        self.cmp(if invert { NFT_CMP_NEQ } else { NFT_CMP_EQ }, &value);
        if let (Expr::L4Proto, Datum::L4Proto(number), false) = (left, right, invert) {
            self.proto = Some(*number);
        }
        if let (Expr::EtherType, Datum::EtherType(number), false) = (left, right, invert) {
            let known = [
                Protocol::Ip(Family::V4),
                Protocol::Ip(Family::V6),
                Protocol::Arp,
            ];
            self.protocol = known
                .into_iter()
                .find(|known| known.ether_type() == *number);
        }
        Ok(())
    }

    fn in_prefix(&mut self, left: Expr, prefix: Prefix) -> Result<(), Unsupported> {
        if !matches!(left, Expr::Saddr(f) | Expr::Daddr(f) if f == prefix.family()) {
            return Err(Unsupported::Types);
        }
        self.need(left)?;
        let base = octets(prefix.base());
        let (bytes, bits) = (usize::from(prefix.len() / 8), prefix.len() % 8);
        if bits > 0 {
            self.payload(left, size(left.field()), SCRATCH);
            self.and(&mask(base.len(), prefix.len()));
            self.cmp(NFT_CMP_EQ, &base);
        } else if bytes > 0 {
            // Whole bytes: it is enough to look at those.
            self.payload(left, u32::from(prefix.len() / 8), SCRATCH);
            self.cmp(NFT_CMP_EQ, base.get(..bytes).unwrap_or(&base));
        }
        Ok(())
    }

    /// Clears the bits of the scratch register that are not in the mask.
    fn and(&mut self, mask: &[u8]) {
        let zeros = vec![0; mask.len()];
        // At most 16 bytes, an IPv6 address.
        let len = u32::try_from(mask.len()).unwrap_or(0);
        self.expression("bitwise", |w| {
            w.put_u32(NFTA_BITWISE_SREG, SCRATCH);
            w.put_u32(NFTA_BITWISE_DREG, SCRATCH);
            w.put_u32(NFTA_BITWISE_LEN, len);
            w.nest(NFTA_BITWISE_MASK, |w| w.put(NFTA_DATA_VALUE, mask));
            w.nest(NFTA_BITWISE_XOR, |w| w.put(NFTA_DATA_VALUE, &zeros));
        });
    }

    fn lookup(&mut self, set: &str, into: Option<u32>, invert: bool) {
        self.expression("lookup", |w| {
            w.put_text(NFTA_LOOKUP_SET, set);
            w.put_u32(NFTA_LOOKUP_SREG, SCRATCH);
            if let Some(into) = into {
                w.put_u32(NFTA_LOOKUP_DREG, into);
            }
            if invert {
                w.put_u32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
            }
        });
    }

    /// The map has put the address and behind it the port into the registers. A packet of the other family passes by:
    /// the kernel compares the families itself (`nft_nat_inet_eval`).
    fn dnat(&mut self, family: Family) {
        let address = match family {
            Family::V4 => Field::Ip4,
            Family::V6 => Field::Ip6,
        };
        self.expression("nat", |w| {
            w.put_u32(NFTA_NAT_TYPE, NFT_NAT_DNAT);
            w.put_u32(NFTA_NAT_FAMILY, u32::from(family.nfproto()));
            w.put_u32(NFTA_NAT_REG_ADDR_MIN, SCRATCH);
            w.put_u32(NFTA_NAT_REG_PROTO_MIN, register(words(address)));
        });
    }

    /// The map has put the address into the register.
    fn snat(&mut self, family: Family) {
        self.expression("nat", |w| {
            w.put_u32(NFTA_NAT_TYPE, NFT_NAT_SNAT);
            w.put_u32(NFTA_NAT_FAMILY, u32::from(family.nfproto()));
            w.put_u32(NFTA_NAT_REG_ADDR_MIN, SCRATCH);
        });
    }

    /// Goes on where one of these bits is set. They are kept in the host's byte order.
    fn conntrack(&mut self, key: u32, bits: u32) {
        self.expression("ct", |w| {
            w.put_u32(NFTA_CT_DREG, SCRATCH);
            w.put_u32(NFTA_CT_KEY, key);
        });
        self.and(&bits.to_ne_bytes());
        self.cmp(NFT_CMP_NEQ, &0_u32.to_ne_bytes());
    }

    fn direction(&mut self, direction: u8) {
        self.expression("ct", |w| {
            w.put_u32(NFTA_CT_DREG, SCRATCH);
            w.put_u32(NFTA_CT_KEY, NFT_CT_DIRECTION);
        });
        self.cmp(NFT_CMP_EQ, &[direction]);
    }

    /// The first bit on the wire of the address that a frame goes to (IEEE 802).
    fn for_group(&mut self) {
        const GROUP: u8 = 1;
        self.expression("payload", |w| {
            w.put_u32(NFTA_PAYLOAD_DREG, SCRATCH);
            w.put_u32(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_LL_HEADER);
            w.put_u32(NFTA_PAYLOAD_OFFSET, 0);
            w.put_u32(NFTA_PAYLOAD_LEN, 1);
        });
        self.and(&[GROUP]);
        self.cmp(NFT_CMP_EQ, &[GROUP]);
    }

    fn fib_daddr_local(&mut self) {
        self.expression("fib", |w| {
            w.put_u32(NFTA_FIB_DREG, SCRATCH);
            w.put_u32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
            w.put_u32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
        });
        self.cmp(NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes());
    }

    fn set_port(&mut self, offset: u32, port: u16) -> Result<(), Unsupported> {
        let checksum = match self.proto {
            // struct tcphdr and struct udphdr; the kernel leaves a UDP checksum of zero alone.
            Some(TCP) => 16,
            Some(UDP) => 6,
            _ => return Err(Unsupported::PortWithoutProtocol),
        };
        self.expression("immediate", |w| {
            w.put_u32(NFTA_IMMEDIATE_DREG, SCRATCH);
            let value = port.to_be_bytes();
            w.nest(NFTA_IMMEDIATE_DATA, |w| w.put(NFTA_DATA_VALUE, &value));
        });
        self.expression("payload", |w| {
            w.put_u32(NFTA_PAYLOAD_SREG, SCRATCH);
            w.put_u32(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
            w.put_u32(NFTA_PAYLOAD_OFFSET, offset);
            w.put_u32(NFTA_PAYLOAD_LEN, size(Field::Port));
            w.put_u32(NFTA_PAYLOAD_CSUM_TYPE, NFT_PAYLOAD_CSUM_INET);
            w.put_u32(NFTA_PAYLOAD_CSUM_OFFSET, checksum);
            w.put_u32(NFTA_PAYLOAD_CSUM_FLAGS, 0);
        });
        Ok(())
    }
}

/// Offsets of the ports in a TCP or UDP header.
const SPORT: u32 = 0;
const DPORT: u32 = 2;

const fn state_bits(state: CtState) -> u32 {
    match state {
        CtState::Invalid => STATE_INVALID,
        CtState::EstablishedRelated => STATE_ESTABLISHED_RELATED,
        CtState::New => STATE_NEW,
        CtState::Untracked => STATE_UNTRACKED,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "no field is longer than 16 bytes"
)]
const fn size(field: Field) -> u32 {
    field.size() as u32
}

/// How many 4-byte registers a value takes.
const fn words(field: Field) -> u32 {
    size(field).div_ceil(4)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The first bits set, as long as the address.
fn mask(bytes: usize, bits: u8) -> Vec<u8> {
    let whole = usize::from(bits / 8);
    let byte = |index| match whole.cmp(&index) {
        std::cmp::Ordering::Greater => 0xff,
        std::cmp::Ordering::Equal => !(0xff_u8 >> (bits % 8)),
        std::cmp::Ordering::Less => 0,
    };
    (0..bytes).map(byte).collect()
}

#[cfg(test)]
mod tests;
