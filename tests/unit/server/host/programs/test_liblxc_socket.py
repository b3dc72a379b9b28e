"""Names of command sockets and the search for running containers."""

from corral.server.host.programs import liblxc_socket

TABLE = """Num       RefCount Protocol Flags    Type St Inode Path
000000002a53a89c: 00000002 00000000 00010000 0001 01 52181 @/srv/ct/one/command
000000002a53a89d: 00000002 00000000 00010000 0001 01 52182 @/srv/ct/two/command
000000002a53a89e: 00000002 00000000 00010000 0001 01 52183 @/srv/other/three/command
000000002a53a89f: 00000002 00000000 00010000 0001 01 52184 @/srv/ct/a/b/command
000000002a53a8a0: 00000002 00000000 00010000 0001 01 52185 /run/dbus/socket
000000002a53a8a1: 00000002 00000000 00010000 0001 01 52186
"""


def test_the_name_of_a_short_path_is_plain() -> None:
    assert liblxc_socket.socket_name("/srv/ct", "one") == "/srv/ct/one/command"


def test_the_name_of_a_long_path_is_hashed() -> None:
    # 105 bytes still fit, as in liblxc.
    fits = "x" * (105 - len("/srv/ct//command"))
    assert liblxc_socket.socket_name("/srv/ct", fits).startswith("/srv/ct/")
    assert liblxc_socket.socket_name("/srv/ct", fits + "x").startswith("lxc/")
    assert len(liblxc_socket.socket_name("/srv/ct", fits + "x")) == len("lxc/0123456789abcdef/command")


def test_fnv1a_of_known_values() -> None:
    assert liblxc_socket.fnv1a_64("") == 0xCBF29CE484222325
    assert liblxc_socket.fnv1a_64("a") == 0xAF63DC4C8601EC8C
    assert liblxc_socket.fnv1a_64("foobar") == 0x85944171F73967E8


def test_running_containers_are_those_directly_below_the_path() -> None:
    assert liblxc_socket.parse_running(TABLE, "/srv/ct") == ["one", "two"]
    assert liblxc_socket.parse_running(TABLE, "/srv") == []


def test_hashed_names_are_found_among_candidates() -> None:
    long_path = "/srv/" + "p" * 110
    line = f"0: 0 0 0 1 1 9 @{liblxc_socket.socket_name(long_path, 'far')}\n"
    assert liblxc_socket.parse_running(line, long_path) == []
    assert liblxc_socket.parse_running(line, long_path, ["near", "far"]) == ["far"]
