"""The octets of a DHCPRELEASE message."""

from corral.server.networks import dhcp_release


def test_a_release_names_the_client_and_the_server() -> None:
    message = dhcp_release.compose_ipv4("10.5.5.1", "10.5.5.9", "00:16:3e:11:22:33", "01:00:16:3e:11:22:33")
    assert message[:4] == bytes([1, 1, 6, 0])
    assert message[12:16] == bytes([10, 5, 5, 9])
    assert message[28:34] == bytes.fromhex("00163e112233")
    assert message[236:240] == bytes([99, 130, 83, 99])
    assert message[240:].hex() == "350107" + "36040a050501" + "3d070100163e112233" + "ff"


def test_a_client_without_identifier_sends_none() -> None:
    message = dhcp_release.compose_ipv4("10.5.5.1", "10.5.5.9", "00:16:3e:11:22:33", "*")
    assert message[240:].hex() == "350107" + "36040a050501" + "ff"
