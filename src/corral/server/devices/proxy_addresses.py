"""Addresses of proxy devices: parsed, checked, and rendered as rules that translate them. Pure."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corral import units
from corral.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """One end of a proxy: `kind` is tcp, udp or unix; `host` an IP address, a path, or `@` and an abstract name."""

    kind: str
    host: str
    ports: tuple[int, ...] = ()

    @property
    def is_file(self) -> bool:
        return self.kind == "unix" and not self.host.startswith("@")


def parse(text: str) -> ProxyAddress:
    """Parse `tcp:127.0.0.1:80,90-92`, `udp:[::1]:53`, `unix:/run/x` or `unix:@name`."""
    kind, _, rest = text.partition(":")
    if kind not in ("tcp", "udp", "unix"):
        raise InvalidRequest(f'Unknown protocol type "{kind}"')
    if not rest:
        raise InvalidRequest("Missing address")
    if kind == "unix":
        return ProxyAddress(kind, rest)
    host, colon, ports = rest.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        raise InvalidRequest(f"address {rest}: missing port in address")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host or "0.0.0.0")
    except ValueError as error:
        raise InvalidRequest(f'Not an IP address "{host}"') from error
    return ProxyAddress(kind, host, tuple(number for part in ports.split(",") for number in _parse_ports(part)))


def _parse_ports(text: str) -> range:
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first, first]
    if not all(one.isdecimal() and 0 <= int(one) <= 65535 for one in numbers):
        raise InvalidRequest(f'Invalid port "{text}"')
    if int(numbers[1]) < int(numbers[0]):
        raise InvalidRequest(f'Invalid port range "{text}": the end is before the start')
    return range(int(numbers[0]), int(numbers[1]) + 1)


def check(config: Mapping[str, str]) -> None:
    """Raise InvalidRequest for ends that do not go together."""
    listen, connect = parse(config["listen"]), parse(config["connect"])
    nat = units.is_true(config.get("nat"))
    if len(connect.ports) > 1 and len(connect.ports) != len(listen.ports):
        raise InvalidRequest("Mismatch between listen port(s) and connect port(s) count")
    if units.is_true(config.get("proxy_protocol")) and (connect.kind != "tcp" or nat):
        raise InvalidRequest("The PROXY header can only be sent to tcp servers in non-nat mode")
    if not listen.is_file and any(config.get(key) for key in ("uid", "gid", "mode")):
        raise InvalidRequest("Only proxy devices for non-abstract unix sockets can carry uid, gid, or mode properties")
    if nat:
        _check_nat(config, listen, connect)


def _check_nat(config: Mapping[str, str], listen: ProxyAddress, connect: ProxyAddress) -> None:
    if config.get("bind") not in (None, "", "host"):
        raise InvalidRequest("Only host-bound proxies can use NAT")
    if listen.kind == "unix" or connect.kind != listen.kind:
        raise InvalidRequest(f"Proxying {listen.kind} <-> {connect.kind} is not supported when using NAT")
    if not listen.host or ipaddress.ip_address(listen.host).is_unspecified:
        raise InvalidRequest(f'Cannot listen on wildcard address "{listen.host}" when in nat mode')
    if (":" in listen.host) != (":" in connect.host):
        raise InvalidRequest("Cannot mix IP versions between listen and connect in nat mode")


def pairs(listen: ProxyAddress, connect: ProxyAddress) -> list[tuple[int | None, int | None]]:
    """Which port leads to which; None for a Unix socket."""
    sources: Sequence[int | None] = listen.ports or (None,)
    targets: Sequence[int | None] = connect.ports or (None,)
    return [(source, targets[index] if len(targets) > 1 else targets[0]) for index, source in enumerate(sources)]


def nat_ranges(listen: ProxyAddress, connect: ProxyAddress) -> list[tuple[range, range | None]]:
    """Runs of listening ports with the ports that they lead to; None where each leads to the same number."""
    found: list[tuple[range, range | None]] = []
    joined = [(source, target) for source, target in pairs(listen, connect) if source is not None]
    index = 0
    while index < len(joined):
        source, target = joined[index]
        assert target is not None
        end = index + 1
        one_target = len(connect.ports) == 1
        while end < len(joined):
            next_source, next_target = joined[end]
            steady = next_source == source + (end - index)
            if one_target:
                steady = steady and next_target == target
            else:
                # Only ports that keep their number can be led on as a range.
                steady = steady and source == target and next_target == next_source
            if not steady:
                break
            end += 1
        ports = range(source, source + (end - index))
        keeps = not one_target and source == target and len(ports) > 1
        found.append((ports, None if keeps else range(target, target + 1)))
        index = end
    return found


def _format_ports(ports: range) -> str:
    return f"{ports[0]}" if len(ports) == 1 else f"{ports[0]}-{ports[-1]}"


def target_runs(ports: Sequence[int]) -> list[range]:
    """Consecutive ports joined."""
    runs: list[range] = []
    for port in sorted(set(ports)):
        if runs and port == runs[-1].stop:
            runs[-1] = range(runs[-1].start, port + 1)
        else:
            runs.append(range(port, port + 1))
    return runs


def render_nat(label: str, table: str, listen: ProxyAddress, connect: ProxyAddress, target: str) -> str:
    """One transaction that has the kernel translate what comes to `listen` into what goes to `target`."""
    word = "ip6" if ":" in target else "ip"
    dnat = []
    for ports, mapped in nat_ranges(listen, connect):
        host = target
        if mapped is not None:
            host = f"[{target}]:{mapped[0]}" if word == "ip6" else f"{target}:{mapped[0]}"
        dnat.append(f"{word} daddr {listen.host} {listen.kind} dport {_format_ports(ports)} dnat to {host}")
    snat = [
        f"{word} saddr {target} {word} daddr {target} {listen.kind} dport {_format_ports(run)} masquerade"
        for run in target_runs(connect.ports)
    ]
    lines = [render_nat_removal(label, table).rstrip("\n"), f"table inet {table} {{"]
    for name, hook, rules in (
        ("prert", "prerouting priority -100", dnat),
        ("out", "output priority -100", dnat),
        ("pstrt", "postrouting priority 100", snat),
    ):
        lines += [f"\tchain {name}.{label} {{", f"\t\ttype nat hook {hook}; policy accept;"]
        lines += [f"\t\t{rule}" for rule in rules]
        lines.append("\t}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def render_nat_removal(label: str, table: str) -> str:
    """A transaction that removes the translation, whether it exists or not."""
    lines = [f"add table inet {table}"]
    for name in ("prert", "out", "pstrt"):
        chain = f"inet {table} {name}.{label}"
        lines += [f"add chain {chain}", f"flush chain {chain}", f"delete chain {chain}"]
    return "\n".join(lines) + "\n"
