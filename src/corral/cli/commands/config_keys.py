"""Which words may be config keys of an instance, as far as the command line needs to know."""

_SPACES = (
    "boot.",
    "cloud-init.",
    "cluster.",
    "environment.",
    "image.",
    "limits.",
    "linux.",
    "migration.",
    "nvidia.",
    "raw.",
    "security.",
    "snapshots.",
    "user.",
    "volatile.",
)


def is_config_key(key: str) -> bool:
    """Whether a key lies in one of the spaces that instances have."""
    return key.startswith(_SPACES)
