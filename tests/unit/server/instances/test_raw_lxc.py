"""What liblxc says of lines that it does not take."""

import pytest

from corral.server.instances.container import raw_lxc

PLACE = (
    'lxc-info: check: ../src/lxc/parse.c: lxc_file_for_each_line_mmap: 129 Failed to parse config file "/x" at line '
)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "lxc-info: check: ../src/lxc/confile.c: set_config_personality: 1432 Invalid argument - Unsupported"
            f' personality "x"\n{PLACE}"lxc.arch=x"\nFailed to load config for check\n',
            '1432 Invalid argument - Unsupported personality "x"',
        ),
        (f'{PLACE}"lxc.tty.max=x"\nFailed to load config for check\n', 'at line "lxc.tty.max=x"'),
        ("", ""),
    ],
)
def test_reasons(output: str, reason: str) -> None:
    assert raw_lxc.find_reason(output) == reason
