"""Names of instances: what is allowed, and a fresh one for an instance that was given none."""

import random
import re
from collections.abc import Collection

from corral.errors import InternalError, InvalidRequest

_ADJECTIVES = """
    able agile alert amber ample apt brave breezy bright brisk calm candid careful cheery civil clever cosy crisp
    curious daring deft direct eager early earnest easy equal fair famous fancy fast fine firm fond free fresh
    gentle glad golden grand great green handy happy hardy hearty honest humble ideal jolly joyful just keen kind
    large lasting light lively loyal lucky mellow merry mighty modest neat nimble noble novel open patient plain
    polite prime proper proud quick quiet rapid rare ready regal rich robust rosy safe serene sharp silent simple
    smart smooth sober solid sound stable steady strong sunny sure swift tender tidy topical true trusty upbeat
    usable valid vast vital vivid warm wary wealthy willing wise witty worthy young zesty
"""
_ANIMALS = """
    adder alpaca ant ape asp badger bass bat bear beaver bee beetle bison boar bobcat buck buffalo bull camel
    caribou cat chamois cheetah chough cicada clam cobra cod colt condor cougar cow coyote crab crane cricket crow
    deer dingo dodo dog dolphin donkey dove duck eagle eel egret eland elk emu ermine falcon ferret finch firefly
    fish flea fly foal fox frog gannet gazelle gecko gibbon giraffe gnat gnu goat goose gorilla grouse grub gull
    hare hawk hen heron hippo hornet horse hound hyena ibex ibis impala jackal jaguar jay kid kite kiwi koala lamb
    lark lemming lemur leopard lion lizard llama lobster locust loon lynx macaque magpie mallard marlin marmot
    marten mink mite mole monitor moose moth mouse mule newt ocelot octopus okapi orca osprey otter owl ox oyster
    panda parrot pelican perch pig pigeon pony puma quail rabbit racoon ram rat raven robin rook salmon seal shad
    shark sheep shrew shrimp skunk sloth slug snail snake sole sparrow spider squid stag stoat stork swan swift
    tapir tern tiger toad trout tuna turtle viper vole walrus wasp weasel whale wolf wombat worm wren yak zebra
"""
_TRIES = 100


def check_name(name: str) -> None:
    """Raise InvalidRequest where the name is no host name (RFC 1123) that starts with a letter."""
    if "/" in name:
        raise InvalidRequest('The character "/" is reserved for snapshots')
    reason = ""
    if not 1 <= len(name) <= 63:
        reason = "Name must be 1-63 characters long"
    elif name.startswith("-"):
        reason = 'Name must not start with "-" character'
    elif name.endswith("-"):
        reason = 'Name must not end with "-" character'
    elif name[0] in "0123456789":
        reason = "Name must not start with a number"
    elif not re.fullmatch(r"[A-Za-z0-9-]+", name):
        reason = "Name can only contain alphanumeric and hyphen characters"
    if reason:
        raise InvalidRequest(f"Invalid instance name: {reason}")


def generate_name(taken: Collection[str], choice: random.Random | None = None) -> str:
    """A name of two words that is not taken."""
    source = choice or random.SystemRandom()
    adjectives, animals = _ADJECTIVES.split(), _ANIMALS.split()
    for _ in range(_TRIES):
        name = f"{source.choice(adjectives)}-{source.choice(animals)}"
        if name not in taken:
            return name
    raise InternalError(f"Couldn't generate a new unique name after {_TRIES} tries")
