"""What the driver of a network interface says of it: firmware and link, by ioctls (linux/ethtool.h)."""

import fcntl
import socket
import struct
from dataclasses import dataclass

_SIOCETHTOOL = 0x8946
_GET_SETTINGS, _GET_DRIVER = 0x1, 0x3
_SETTINGS = struct.Struct("=IIIHBBBBBBIIHBBIII")
_DRIVER = struct.Struct("=I32s32s32s32s32s12sIIIII")

_PORT_TYPES = {
    0x00: "twisted pair",
    0x01: "AUI",
    0x02: "media-independent",
    0x03: "fibre",
    0x04: "BNC",
    0x05: "direct attach",
    0xEF: "none",
    0xFF: "other",
}
_TRANSCEIVERS = {0: "internal", 1: "external"}
_DUPLEX = {0: "half", 1: "full"}
_PORTS = {7: "twisted pair", 8: "AUI", 9: "media-independent", 10: "fibre", 11: "BNC", 16: "backplane"}
_MODES = {
    0: "10baseT/Half",
    1: "10baseT/Full",
    2: "100baseT/Half",
    3: "100baseT/Full",
    4: "1000baseT/Half",
    5: "1000baseT/Full",
    12: "10000baseT/Full",
    15: "2500baseX/Full",
    17: "1000baseKX/Full",
    18: "10000baseKX4/Full",
    19: "10000baseKR/Full",
    23: "40000baseKR4/Full",
    24: "40000baseCR4/Full",
    25: "40000baseSR4/Full",
    26: "40000baseLR4/Full",
    31: "25000baseCR/Full",
}


@dataclass(frozen=True, slots=True)
class Link:
    """What there is to know of a link; empty where the driver does not say."""

    modes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    port_type: str = ""
    transceiver: str = ""
    duplex: str = ""
    autoneg: bool = False


def parse_settings(data: bytes) -> Link:
    """The link in an answer to ETHTOOL_GSET."""
    _, supported, _, _, duplex, port, _, transceiver, autoneg, *_ = _SETTINGS.unpack(data)
    return Link(
        modes=tuple(name for bit, name in _MODES.items() if supported >> bit & 1),
        ports=tuple(name for bit, name in _PORTS.items() if supported >> bit & 1),
        port_type=_PORT_TYPES.get(port, ""),
        transceiver=_TRANSCEIVERS.get(transceiver, ""),
        duplex=_DUPLEX.get(duplex, ""),
        autoneg=autoneg == 1,
    )


def parse_driver(data: bytes) -> str:
    """The version of the firmware in an answer to ETHTOOL_GDRVINFO."""
    firmware: bytes = _DRIVER.unpack(data)[3]
    text = firmware.partition(b"\0")[0].decode(errors="replace").strip()
    return "" if text == "N/A" else text


def read_link(interface: str) -> Link | None:
    """The link of an interface, or None where its driver tells nothing."""
    data = _ask(interface, _GET_SETTINGS, _SETTINGS.size)
    return parse_settings(data) if data is not None else None


def read_firmware(interface: str) -> str:
    """The version of the firmware of an interface's card, or ""."""
    data = _ask(interface, _GET_DRIVER, _DRIVER.size)
    return parse_driver(data) if data is not None else ""


def _ask(interface: str, command: int, size: int) -> bytes | None:
    buffer = bytearray(struct.pack("=I", command).ljust(size, b"\0"))
    address = _address_of(buffer)
    request = bytearray(struct.pack("=16sQ16x", interface.encode()[:15], address))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            fcntl.ioctl(asking, _SIOCETHTOOL, request)
    except OSError:
        return None
    return bytes(buffer)


def _address_of(buffer: bytearray) -> int:
    import ctypes

    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
