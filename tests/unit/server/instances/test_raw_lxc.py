"""What is told of lines that liblxc does not take."""

from corral.server.instances.container import raw_lxc


def test_reasons_name_the_line_and_no_file() -> None:
    text = 'Unsupported personality "x"; Failed to parse config file "/tmp/x/config" at line "lxc.arch=x"'
    assert raw_lxc.format_reason(text) == 'Unsupported personality "x"; Failed to parse line "lxc.arch=x"'
