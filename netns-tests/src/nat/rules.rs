//! The presets' rules: for each family one file of `iptables-restore`.

use std::fmt::Write as _;

use super::{Firewall, Nat, Nat6, Reject};
use crate::Gateway;

/// The comments that mark rules whose counters are evidence.
pub(crate) mod marks {
    /// Drops what comes unasked to the gateway itself.
    pub(crate) const DROP_INPUT: &str = "lab-drop-input";
    /// Drops what may not be forwarded.
    pub(crate) const DROP_FORWARD: &str = "lab-drop-forward";
    /// Answers what may not get out.
    pub(crate) const REJECT: &str = "lab-reject";
    /// Passes what is TLS.
    pub(crate) const TLS: &str = "lab-tls";
    /// Resets what is not TLS.
    pub(crate) const NOT_TLS: &str = "lab-not-tls";
    /// Resets what names the blocked name.
    pub(crate) const SNI: &str = "lab-sni";
    /// Lets the LAN reach the gateway's proxies.
    pub(crate) const PROXY: &str = "lab-proxy";
    /// Ends what has carried enough.
    pub(crate) const CUT: &str = "lab-cut";
    /// Refuses one connection too many.
    pub(crate) const LIMIT: &str = "lab-limit";
    /// Translates to one of the ten ports.
    pub(crate) const PORTS: &str = "lab-ports";
    /// Takes options out of SYNs.
    pub(crate) const STRIP: &str = "lab-strip";
    /// Drops the word that a packet was too big.
    pub(crate) const MTU: &str = "lab-mtu";
}

/// The inside and outside prefixes of [`Nat6::PrefixTranslation`].
const PREFIXES: [&str; 2] = ["fd00:1::/64", "2001:db8:1:1::/64"];
/// The MTU of a gateway that is an MTU black hole.
const BLACK_HOLE_MTU: u16 = 1300;

/// The rules of a gateway, as a shell script. Running it again sets everything back, counters too.
pub(crate) fn rules(gateway: &Gateway) -> String {
    // Where bridges call iptables, FORWARD's drop would part the neighbours on the LAN as well.
    // Without `tcp_loose=0` and the INVALID rule a NAT that lost its state adopts old connections
    // again, and a test of that loss would show nothing. A redirect would tell neighbours a shorter
    // way than by the gateway's outside address.
    let mut script = "sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_tcp_loose=0 \
         net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.lan0.send_redirects=0\n\
         sysctl -qew net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0\n"
        .to_owned();
    if let Firewall::Connbytes { .. } = gateway.firewall {
        line(&mut script, "sysctl -qw net.netfilter.nf_conntrack_acct=1");
    }
    if gateway.firewall == Firewall::MtuBlackHole {
        for device in ["wan0", "lan0"] {
            line(&mut script, &format!("ip link set {device} mtu {BLACK_HOLE_MTU}"));
        }
    }
    if let Some(outside) = gateway.outside_v4() {
        if gateway.nat == Nat::ArbitraryPooling {
            for other in pool(outside).iter().skip(1) {
                line(&mut script, &format!("ip addr replace {other}/24 dev wan0"));
            }
        }
        if let Nat::RestrictedCone { .. } = gateway.nat {
            line(&mut script, "ipset create seen hash:ip,port,ip timeout 300 -exist");
        }
        let mut tables = Tables::filter(gateway.firewall, false);
        tables.translate(gateway, outside);
        script += &tables.finish("iptables-restore");
    }
    if gateway.nat6 != Nat6::None {
        line(&mut script, "sysctl -qw net.ipv6.conf.all.forwarding=1");
        let mut tables = Tables::filter(gateway.firewall, true);
        tables.translate6(gateway.nat6);
        script += &tables.finish("ip6tables-restore");
    }
    script
}

/// The four addresses of arbitrary pooling, from the first.
fn pool(first: &str) -> Vec<String> {
    let (network, host) = first.rsplit_once('.').unwrap_or((first, "1"));
    let host: u32 = host.parse().unwrap_or(1);
    (host..host + 4).map(|host| format!("{network}.{host}")).collect()
}

/// The tables of one family, as `iptables-restore` reads them.
#[derive(Debug, Default)]
struct Tables {
    raw: String,
    mangle: String,
    nat: String,
    filter: String,
    /// The filter's last rules, which drop the rest; what comes in by a NAT comes before them.
    last: String,
}

impl Tables {
    /// The firewall's.
    fn filter(firewall: Firewall, v6: bool) -> Self {
        let mut tables = Self::default();
        if firewall == Firewall::Open {
            return tables;
        }
        let filter = &mut tables.filter;
        line(filter, ":FORWARD DROP [0:0]");
        // Without INPUT's drop an early packet from outside is delivered to the gateway, confirmed,
        // and spoils the next mapping.
        line(filter, "-A INPUT -i wan0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        if v6 {
            // Neighbours find each other by ICMP.
            line(filter, "-A INPUT -i wan0 -p ipv6-icmp -j ACCEPT");
        }
        line(filter, &format!("-A INPUT -i wan0 {} -j DROP", mark(marks::DROP_INPUT)));
        line(filter, "-A FORWARD -m conntrack --ctstate INVALID -j DROP");
        tables.judge_established(firewall, v6);
        let filter = &mut tables.filter;
        line(filter, "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        let way = "-A FORWARD -i lan0 -o wan0";
        match firewall {
            _ if v6 && !firewall.knows_v6() => {}
            Firewall::Tcp443Only | Firewall::Tcp443Reject(_) => {
                line(
                    filter,
                    &format!("{way} -p tcp --dport 443 -m conntrack --ctstate NEW -j ACCEPT"),
                );
            }
            // Its own rules have let out what may.
            Firewall::TlsOnly => {}
            Firewall::ProxyOnly => line(filter, &format!("{way} -s 192.168.50.9 -j ACCEPT")),
            _ => line(filter, &format!("{way} -m conntrack --ctstate NEW -j ACCEPT")),
        }
        if let Firewall::Tcp443Reject(reject) = firewall {
            let reject_with = |protocol: &str, reject: Reject| {
                let with = reject.with(v6);
                format!("{way} {protocol}{} -j REJECT --reject-with {with}", mark(marks::REJECT))
            };
            if reject == Reject::TcpReset {
                line(filter, &reject_with("-p tcp ", reject));
                line(filter, &reject_with("", Reject::IcmpPort));
            } else {
                line(filter, &reject_with("", reject));
            }
        }
        line(&mut tables.last, &format!("-A FORWARD {} -j DROP", mark(marks::DROP_FORWARD)));
        tables
    }

    /// Rules that see packets of established connections too.
    fn judge_established(&mut self, firewall: Firewall, v6: bool) {
        let (filter, mangle) = (&mut self.filter, &mut self.mangle);
        let reset = "-j REJECT --reject-with tcp-reset";
        let established = "-m conntrack --ctstate ESTABLISHED,RELATED";
        let cut = mark(marks::CUT);
        match firewall {
            Firewall::MtuBlackHole if v6 => line(
                filter,
                &format!(
                    "-A OUTPUT -p ipv6-icmp --icmpv6-type packet-too-big {} -j DROP",
                    mark(marks::MTU)
                ),
            ),
            Firewall::MtuBlackHole => line(
                filter,
                &format!(
                    "-A OUTPUT -p icmp --icmp-type fragmentation-needed {} -j DROP",
                    mark(marks::MTU)
                ),
            ),
            Firewall::StripOptions => {
                // 30 is MPTCP.
                let strip = "--strip-options wscale,sack-permitted,timestamp,30";
                line(
                    mangle,
                    &format!("-A FORWARD -p tcp {} -j TCPOPTSTRIP {strip}", mark(marks::STRIP)),
                );
            }
            _ if v6 => {}
            Firewall::TlsOnly => tls_only(filter),
            Firewall::SniBlocked { name } => line(
                filter,
                &format!(
                    "-A FORWARD -i lan0 -p tcp --dport 443 -m string --algo kmp --to 1500 \
                     --string \"{name}\" {} {reset}",
                    mark(marks::SNI)
                ),
            ),
            Firewall::ProxyOnly => {
                let proxy = mark(marks::PROXY);
                line(filter, &format!("-A INPUT -i lan0 {established} -j ACCEPT"));
                line(
                    filter,
                    &format!(
                        "-A INPUT -i lan0 -p tcp -m multiport --dports 3128,1080 {proxy} -j ACCEPT"
                    ),
                );
                let reject = "-j REJECT --reject-with icmp-admin-prohibited";
                line(filter, &format!("-A INPUT -i lan0 {} {reject}", mark(marks::REJECT)));
            }
            Firewall::Quota { bytes } => {
                let inward = "-A FORWARD -i wan0 -p tcp";
                line(filter, &format!("{inward} {established} -m quota --quota {bytes} -j ACCEPT"));
                line(filter, &format!("{inward} {established} {cut} -j DROP"));
            }
            Firewall::Connbytes { bytes } => {
                let spent = format!(
                    "-m connbytes --connbytes {bytes}: --connbytes-dir both --connbytes-mode bytes"
                );
                line(filter, &format!("-A FORWARD -p tcp {spent} {cut} {reset}"));
            }
            Firewall::Connlimit { above } => line(
                filter,
                &format!(
                    "-A FORWARD -i lan0 -p tcp --syn -m connlimit --connlimit-above {above} \
                     --connlimit-mask 32 {} {reset}",
                    mark(marks::LIMIT)
                ),
            ),
            _ => {}
        }
    }

    /// IPv4's translation.
    fn translate(&mut self, gateway: &Gateway, outside: &str) {
        let nat = &mut self.nat;
        if gateway.firewall == Firewall::PortExhaustion {
            let ports = mark(marks::PORTS);
            line(nat, &format!("{OUT} -p tcp {ports} -j SNAT --to-source {outside}:50000-50009"));
        }
        let snat = format!("{OUT} -j SNAT --to-source {outside}");
        match gateway.nat {
            Nat::Routed => {}
            Nat::PortRestricted => line(nat, MASQUERADE),
            Nat::Symmetric => line(nat, &format!("{MASQUERADE} --random-fully")),
            Nat::AddressDependent => {
                for (host, ports) in
                    [("203.0.113.10", "20000-29999"), ("203.0.113.20", "30000-39999")]
                {
                    ranged(nat, &format!("-d {host} "), &format!("{outside}:{ports}"));
                }
                line(nat, MASQUERADE);
            }
            Nat::PortBlock => {
                ranged(nat, "", &format!("{outside}:20000-20999"));
                line(nat, MASQUERADE);
            }
            Nat::ArbitraryPooling => {
                for (address, turn) in pool(outside).iter().zip(0..) {
                    let every = 4 - turn;
                    line(
                        nat,
                        &format!(
                            "{OUT} -m statistic --mode nth --every {every} --packet 0 \
                             -j SNAT --to-source {address}"
                        ),
                    );
                }
            }
            Nat::FullCone { inside } | Nat::RestrictedCone { inside } => {
                line(nat, &snat);
                line(
                    nat,
                    &format!(
                        "-A PREROUTING -i wan0 -d {outside} -j DNAT --to-destination {inside}"
                    ),
                );
            }
            Nat::Hairpin { inside } => {
                line(nat, &snat);
                line(nat, &format!("-A PREROUTING -d {outside} -j DNAT --to-destination {inside}"));
                if let Some(lan) = gateway.inside_v4() {
                    line(
                        nat,
                        &format!("-A POSTROUTING -s {lan} -d {lan} -j SNAT --to-source {outside}"),
                    );
                }
            }
        }
        self.let_in(gateway.nat, gateway.firewall);
    }

    /// What a NAT of IPv4 lets in unasked.
    fn let_in(&mut self, nat: Nat, firewall: Firewall) {
        // An open firewall lets in everything anyway, but a restricted cone must filter itself.
        let filter = &mut self.filter;
        let dnat = "-m conntrack --ctstate DNAT";
        match nat {
            Nat::FullCone { .. } => {
                line(filter, &format!("-A FORWARD -i wan0 -o lan0 {dnat} -j ACCEPT"));
            }
            Nat::Hairpin { .. } => line(filter, &format!("-A FORWARD -o lan0 {dnat} -j ACCEPT")),
            Nat::RestrictedCone { .. } => {
                // Only what the filter has let out is remembered: who sent it, and to whom.
                for protocol in ["tcp", "udp"] {
                    line(
                        &mut self.mangle,
                        &format!(
                            "-A POSTROUTING -o wan0 -p {protocol} \
                             -j SET --add-set seen src,src,dst --exist"
                        ),
                    );
                }
                let seen = "-m set --match-set seen dst,dst,src";
                line(filter, &format!("-A FORWARD -i wan0 -o lan0 {dnat} {seen} -j ACCEPT"));
                if firewall == Firewall::Open {
                    line(
                        filter,
                        &format!("-A FORWARD -i wan0 {dnat} -m conntrack --ctstate NEW -j DROP"),
                    );
                }
            }
            _ => {}
        }
    }

    /// IPv6's translation.
    fn translate6(&mut self, nat: Nat6) {
        match nat {
            Nat6::None | Nat6::Routed => {}
            Nat6::Masquerade => line(&mut self.nat, MASQUERADE),
            Nat6::Symmetric => line(&mut self.nat, &format!("{MASQUERADE} --random-fully")),
            Nat6::PrefixTranslation => {
                let [inside, outside] = PREFIXES;
                // Stateless: conntrack would see replies to an address that it never saw leave.
                line(&mut self.raw, &format!("-A PREROUTING -i lan0 -s {inside} -j CT --notrack"));
                line(&mut self.raw, &format!("-A PREROUTING -i wan0 -d {outside} -j CT --notrack"));
                // Whoever uses the inside prefix from outside has not been translated.
                line(
                    &mut self.mangle,
                    &format!(
                        "-A PREROUTING -i wan0 -d {inside} {} -j DROP",
                        mark(marks::DROP_FORWARD)
                    ),
                );
                line(
                    &mut self.mangle,
                    &format!(
                        "-A PREROUTING -i wan0 -d {outside} -j DNPT \
                         --src-pfx {outside} --dst-pfx {inside}"
                    ),
                );
                line(
                    &mut self.mangle,
                    &format!(
                        "-A POSTROUTING -o wan0 -s {inside} -j SNPT \
                         --src-pfx {inside} --dst-pfx {outside}"
                    ),
                );
                line(&mut self.filter, "-A FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT");
            }
        }
    }

    /// The shell command that sets them.
    fn finish(self, restore: &str) -> String {
        let Self { raw, mangle, nat, filter, last } = self;
        let tables = [("raw", raw), ("mangle", mangle), ("nat", nat), ("filter", filter + &last)];
        let text: String =
            tables.iter().map(|(table, lines)| format!("*{table}\n{lines}COMMIT\n")).collect();
        format!("{restore} -w <<'TABLES'\n{text}TABLES\n")
    }
}

/// What leaves.
const OUT: &str = "-A POSTROUTING -o wan0";
/// What leaves, with the gateway's address.
const MASQUERADE: &str = "-A POSTROUTING -o wan0 -j MASQUERADE";

/// TCP and UDP, translated to a range of ports.
fn ranged(nat: &mut String, to: &str, source: &str) {
    for protocol in ["tcp", "udp"] {
        line(nat, &format!("{OUT} {to}-p {protocol} -j SNAT --to-source {source}"));
    }
}

/// Port 443 is for whom speaks TLS first: SYNs and bare acknowledgements pass, and the first packet
/// that carries something decides.
fn tls_only(filter: &mut String) {
    let out = "-A FORWARD -i lan0 -o wan0 -p tcp --dport 443";
    let is_tls = "-m u32 --u32 \"0>>22&0x3C@12>>26&0x3C@0>>16=0x1603\"";
    for rule in [
        ":TLSONLY - [0:0]".to_owned(),
        format!("{out} -m connmark --mark 1 {} -j ACCEPT", mark(marks::TLS)),
        format!("{out} -j TLSONLY"),
        "-A TLSONLY -p tcp --syn -j ACCEPT".to_owned(),
        "-A TLSONLY -m length --length 40:60 -j ACCEPT".to_owned(),
        format!("-A TLSONLY -p tcp {is_tls} -j CONNMARK --set-mark 1"),
        format!("-A TLSONLY -m connmark --mark 1 {} -j ACCEPT", mark(marks::TLS)),
        format!("-A TLSONLY -p tcp {} -j REJECT --reject-with tcp-reset", mark(marks::NOT_TLS)),
    ] {
        line(filter, &rule);
    }
}

fn mark(comment: &str) -> String {
    format!("-m comment --comment {comment}")
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let written = writeln!(text, "{line}");
    debug_assert!(written.is_ok());
}
