"""The firewall of a bridge: its own chains, and the accept rules that it needs in the tables of iptables.

The rules are rendered by pure functions from the plan and from what `nft -j list` shows; the chains carry LXD's names
(`fwd.NET`, `in.NET`, `out.NET`, `pstrt.NET` in table `inet <product>`). An accept in a chain of ours does not outvote
the drop policy that Docker or ufw set in `ip filter FORWARD` and `INPUT`, so rules with our comment stand there too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corral.server.networks.drivers.bridge.plan import AddressFamily, BridgePlan

CHAIN_PREFIXES = ("pstrt", "fwd", "in", "out")

_ICMPV4_IN = "{ destination-unreachable, time-exceeded, parameter-problem }"
_ICMPV6_IN = "{ 1, 2, 3, 4, 133, 135, 136, 143 }"
_ICMPV6_OUT = "{ 1, 2, 3, 4, 128, 134, 135, 136, 143 }"


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain: `hook` is all between `type` and the policy."""

    name: str
    hook: str
    rules: tuple[str, ...]


def plan_chains(plan: BridgePlan) -> tuple[Chain, ...]:
    """The chains that a bridge needs; none where it neither filters nor translates."""
    name = plan.name
    chains = []
    nat = tuple(_nat_rule(family) for family in plan.families if family.nat is not None)
    if nat:
        chains.append(Chain(f"pstrt.{name}", "nat hook postrouting priority 100", nat))
    filtered = [family for family in plan.families if family.firewall]
    if filtered:
        chains += [
            Chain(f"fwd.{name}", "filter hook forward priority 0", tuple(_forward_rules(name, filtered))),
            Chain(f"in.{name}", "filter hook input priority 0", tuple(_input_rules(name, filtered))),
            Chain(f"out.{name}", "filter hook output priority 0", tuple(_output_rules(name, filtered))),
        ]
    return tuple(chains)


def _word(family: AddressFamily) -> str:
    return "ip" if family.subnet.version == 4 else "ip6"


def _nat_rule(family: AddressFamily) -> str:
    word, subnet = _word(family), family.subnet
    match = f"{word} saddr {subnet} {word} daddr != {subnet}"
    if family.nat is not None and family.nat.address:
        return f"{match} snat {word} to {family.nat.address}"
    return f"{match} masquerade"


def _forward_rules(name: str, families: Sequence[AddressFamily]) -> Iterable[str]:
    for family in families:
        match = "ip version 4" if family.subnet.version == 4 else "ip6 version 6"
        verdict = "accept" if family.routing else "reject"
        yield f'{match} oifname "{name}" {verdict}'
        yield f'{match} iifname "{name}" {verdict}'


def _input_rules(name: str, families: Sequence[AddressFamily]) -> Iterable[str]:
    yield f'iifname "{name}" tcp dport 53 accept'
    yield f'iifname "{name}" udp dport 53 accept'
    for family in families:
        if not family.dhcp:
            continue
        if family.subnet.version == 4:
            yield f'iifname "{name}" icmp type {_ICMPV4_IN} accept'
            yield f'iifname "{name}" udp dport 67 accept'
        else:
            yield f'iifname "{name}" icmpv6 type {_ICMPV6_IN} accept'
            yield f'iifname "{name}" udp dport 547 accept'


def _output_rules(name: str, families: Sequence[AddressFamily]) -> Iterable[str]:
    yield f'oifname "{name}" tcp sport 53 accept'
    yield f'oifname "{name}" udp sport 53 accept'
    for family in families:
        if not family.dhcp:
            continue
        if family.subnet.version == 4:
            yield f'oifname "{name}" icmp type {_ICMPV4_IN} accept'
            yield f'oifname "{name}" udp sport 67 accept'
        else:
            yield f'oifname "{name}" icmpv6 type {_ICMPV6_OUT} accept'
            yield f'oifname "{name}" udp sport 547 accept'


def render_nft(plan: BridgePlan, table: str) -> str:
    """One transaction that puts exactly the planned chains in place of whatever the bridge had."""
    lines = [render_removal(plan.name, table).rstrip("\n"), f"table inet {table} {{"]
    for chain in plan_chains(plan):
        lines.append(f"\tchain {chain.name} {{")
        lines.append(f"\t\ttype {chain.hook}; policy accept;")
        lines += [f"\t\t{rule}" for rule in chain.rules]
        lines.append("\t}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def render_removal(network: str, table: str) -> str:
    """A transaction that removes a bridge's chains, whether they exist or not."""
    lines = [f"add table inet {table}"]
    for prefix in CHAIN_PREFIXES:
        chain = f"inet {table} {prefix}.{network}"
        lines += [f"add chain {chain}", f"flush chain {chain}", f"delete chain {chain}"]
    return "\n".join(lines) + "\n"


def is_complete(plan: BridgePlan, table: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the items of our table, as `nft -j` lists them, hold all planned chains with all their rules."""
    counts: dict[str, int] = {}
    for item in table:
        if "chain" in item:
            counts.setdefault(item["chain"]["name"], 0)
        elif "rule" in item:
            counts[item["rule"]["chain"]] = counts.get(item["rule"]["chain"], 0) + 1
    return all(counts.get(chain.name) == len(chain.rules) for chain in plan_chains(plan))


# The tables of iptables (`ip filter`, `ip6 filter`), written by Docker, ufw and administrators


def comment(network: str, title: str) -> str:
    """What marks a rule of ours in a foreign chain."""
    return f"generated for {title} network {network}"


def plan_foreign_rules(
    plan: BridgePlan, version: int, table: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, str], ...]:
    """The (chain, rule) pairs that let the bridge's traffic pass a table `filter` of iptables for one IP version.

    Empty where that table has no drop policy and no chain of Docker. DOCKER-USER comes first in Docker's FORWARD chain
    and is kept by it, so that is the place where it exists.
    """
    family = plan.ipv4 if version == 4 else plan.ipv6
    if family is None or not family.firewall:
        return ()
    chains = {item["chain"]["name"]: item["chain"] for item in table if "chain" in item}
    rules: list[tuple[str, str]] = []
    drops = {name for name, chain in chains.items() if chain.get("policy") == "drop"}
    if family.routing and ("DOCKER-USER" in chains or "FORWARD" in drops):
        chain = "DOCKER-USER" if "DOCKER-USER" in chains else "FORWARD"
        rules += [(chain, f'iifname "{plan.name}"'), (chain, f'oifname "{plan.name}"')]
    if "INPUT" in drops:
        rules += [("INPUT", f'iifname "{plan.name}" {protocol} dport 53') for protocol in ("tcp", "udp")]
        if family.dhcp and version == 4:
            rules.append(("INPUT", f'iifname "{plan.name}" udp dport 67'))
        elif family.dhcp:
            rules.append(("INPUT", f'iifname "{plan.name}" udp dport 547'))
            rules.append(("INPUT", f'iifname "{plan.name}" meta l4proto ipv6-icmp'))
    return tuple(rules)


def render_foreign(
    plan: BridgePlan | None, network: str, version: int, table: Sequence[Mapping[str, Any]], title: str
) -> str:
    """The transaction that leaves exactly the wanted rules of a bridge in a table `filter`; empty where all is well.

    With no plan all rules of the network are removed.
    """
    word = "ip" if version == 4 else "ip6"
    mark = comment(network, title)
    wanted = plan_foreign_rules(plan, version, table) if plan is not None else ()
    present = [item["rule"] for item in table if "rule" in item and item["rule"].get("comment") == mark]
    if sorted(rule["chain"] for rule in present) == sorted(chain for chain, _ in wanted):
        return ""
    lines = [f"delete rule {word} filter {rule['chain']} handle {rule['handle']}" for rule in present]
    lines += [f'insert rule {word} filter {chain} {rule} counter accept comment "{mark}"' for chain, rule in wanted]
    return "\n".join(lines) + "\n"
