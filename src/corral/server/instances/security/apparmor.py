"""Gives every container an AppArmor profile where the kernel has AppArmor, and takes it away again."""

import logging
import os

from corral.errors import CommandFailed, InternalError, InvalidRequest
from corral.server.context import Context
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.host.isolation import apparmor
from corral.server.host.isolation.apparmor import AppArmor, Profiles
from corral.server.host.threads import in_thread
from corral.server.instances.model import Instance
from corral.server.instances.security.apparmor_profile import Confinement, render_profile
from corral.server.instances.spec import HostFacts
from corral.units import is_true

log = logging.getLogger(__name__)

UNCONFINED = "unconfined"
KEYS = frozenset({"raw.apparmor", "security.nesting"})
"""A change of one of these makes another profile of a running container."""

_DISABLED = "AppArmor support has been disabled"


def host(context: Context) -> AppArmor:
    """What AppArmor offers here."""
    return context.parts[HostFacts].apparmor


async def report(context: Context) -> None:
    """Keep a warning for as long as there is no AppArmor."""
    here = host(context)
    if here.available:
        await context.events.react(ProblemSolved(_DISABLED))
    else:
        log.warning("%s: %s", _DISABLED, here.reason)
        await context.events.react(Problem(_DISABLED, here.reason))
    if here.available and not here.loads_profiles:
        reason = f"this process runs under {here.confined}" if here.confined else "the right mac_admin is missing"
        log.warning("Containers get no AppArmor profiles of their own: %s", reason)


def _profiles(context: Context) -> Profiles:
    return Profiles(context.member.state_dir / "security" / "apparmor")


def file_name(context: Context, instance: Instance) -> str:
    """The name of the profile's file."""
    return apparmor.profile_name(context.member.product.name, instance.storage_name)


def profile_name(context: Context, instance: Instance) -> str:
    """The profile's name in the kernel, which may have those of several servers."""
    name = f"{instance.storage_name}_<{context.member.state_dir}>"
    return apparmor.profile_name(context.member.product.name, name)


def namespace_name(context: Context, instance: Instance) -> str:
    """The name of the container's own namespace for profiles."""
    place = str(context.member.state_dir).strip("/").replace("/", "-")
    return apparmor.profile_name(context.member.product.name, f"{instance.storage_name}_<{place}>")


def label(context: Context, instance: Instance) -> str:
    """What liblxc is to confine the container by."""
    here = host(context)
    if not here.available:
        return UNCONFINED
    if not here.loads_profiles:
        return here.confined or UNCONFINED
    name = profile_name(context, instance)
    return f"{name}//&:{namespace_name(context, instance)}:" if here.stacking else name


def describe(context: Context, instance: Instance) -> Confinement:
    """What the rules of an instance's profile depend on."""
    config, facts = instance.expanded_config, context.parts[HostFacts]
    return Confinement(
        name=profile_name(context, instance),
        namespace=namespace_name(context, instance) if facts.apparmor.stacking else "",
        cgroup_namespaces=os.path.exists("/proc/self/ns/cgroup"),
        cgroup2=facts.hierarchies.unified is not None,
        nesting=is_true(config.get("security.nesting")),
        unprivileged=not instance.privileged or facts.in_user_namespace,
        raw=config.get("raw.apparmor", ""),
    )


async def load(context: Context, instance: Instance) -> None:
    """Load the profile of a container, or a changed one in its place."""
    here = host(context)
    if not here.loads_profiles:
        return
    profiles, file = _profiles(context), file_name(context, instance)
    if here.stacking:
        await in_thread(apparmor.make_namespace, namespace_name(context, instance))
    await in_thread(profiles.write, file, render_profile(describe(context, instance)))
    try:
        await profiles.load(file)
    except CommandFailed as error:
        raise InternalError(
            f"Failed to load the AppArmor profile of {instance.name}: {error.stderr.strip()}"
        ) from error


async def check(context: Context, instance: Instance) -> None:
    """Raise InvalidRequest where the profile of an instance would not be taken: for a wrong raw.apparmor."""
    if not host(context).loads_profiles or not instance.is_container:
        return
    try:
        await _profiles(context).check(render_profile(describe(context, instance)))
    except CommandFailed as error:
        raise InvalidRequest(f"Parse AppArmor profile: {error.stderr.strip()}") from error


async def unload(context: Context, instance: Instance) -> None:
    """Free what the kernel keeps for a container that ended; its profile stays on the disk. Failures are logged."""
    here = host(context)
    if not here.loads_profiles:
        return
    try:
        if here.stacking:
            await in_thread(apparmor.remove_namespace, namespace_name(context, instance))
        if await in_thread(apparmor.is_loaded, profile_name(context, instance)):
            await _profiles(context).unload(file_name(context, instance))
    except (CommandFailed, OSError) as error:
        log.warning("The AppArmor profile of %s stays in the kernel: %s", instance.storage_name, error)


def remove(context: Context, instance: Instance) -> None:
    """Remove the profile of an instance that is deleted or gets another name."""
    _profiles(context).remove(file_name(context, instance))
