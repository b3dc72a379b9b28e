"""Keys of instances as they are told to users: also those that take any value, the members of families, and what holds
where a key without a default is unset."""

from corral.server.instances.keys import KEYS
from corral.server.keys import INTEGER, STRING, Key, KeyTable

UNSET: dict[str, str] = {
    "cloud-init.network-config": "DHCP on eth0",
    "cloud-init.user-data": "#cloud-config",
    "cloud-init.vendor-data": "#cloud-config",
    "limits.cpu.allowance": "100%",
    "limits.disk.priority": "5",
    "limits.memory.swap.priority": "10",
    "migration.incremental.memory.goal": "70",
    "migration.incremental.memory.iterations": "10",
    "nvidia.driver.capabilities": "compute,utility",
    "security.syscalls.deny_compat": "false",
    "security.syscalls.deny_default": "true",
    "user.network-config": "DHCP on eth0",
    "user.user-data": "#cloud-config",
    "user.vendor-data": "#cloud-config",
}
"""What holds for keys that are unset and whose declaration has no default: unset is not the same as set so."""


def _free(name: str, doc: str) -> Key[str]:
    return Key(name, STRING, doc=doc, live=False)


_KERNEL = {
    "as": "Size of the address space",
    "core": "Size of a core dump",
    "cpu": "Seconds of CPU time",
    "data": "Size of the data segment",
    "fsize": "Size of a file that is written",
    "locks": "Number of file locks",
    "memlock": "Bytes that are locked in memory",
    "nice": "How far the nice value may be raised",
    "nofile": "Number of open files",
    "nproc": "Number of processes of the user",
    "rtprio": "Real-time priority",
    "sigpending": "Number of signals that wait",
}
_DEVICE_VOLATILE = {
    "apply_quota": "Size that a disk gets at the next start",
    "ceph_rbd": "Path of the Ceph block device",
    "host_name": "Name of the host's interface",
    "hwaddr": "MAC address that was made for a NIC",
    "name": "Name that was made for a NIC",
    "last_state.created": "Whether the interface was made for the instance",
    "last_state.mtu": "MTU that the interface had",
    "last_state.hwaddr": "MAC address that the interface had",
    "last_state.ip_addresses": "Addresses that were used last",
    "last_state.vf.id": "Number of the virtual function",
    "last_state.vf.hwaddr": "MAC address that the virtual function had",
    "last_state.vf.vlan": "VLAN that the virtual function had",
    "last_state.vf.spoofcheck": "Whether the virtual function was checked for spoofing",
    "last_state.vf.parent": "Card of the virtual function",
    "vgpu.uuid": "Identity of a virtual GPU",
}

DESCRIBED = KEYS + KeyTable(
    Key("user.*", STRING, doc="Any name and value, for tools and for the instance itself", live=True),
    _free("user.network-config", "cloud-init.network-config for older images"),
    _free("user.user-data", "cloud-init.user-data for older images"),
    _free("user.vendor-data", "cloud-init.vendor-data for older images"),
    *(Key(f"limits.kernel.{name}", INTEGER, doc=doc, live=False) for name, doc in _KERNEL.items()),
    *(_free(f"volatile.<name>.{name}", doc) for name, doc in _DEVICE_VOLATILE.items()),
)
