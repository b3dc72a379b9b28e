"""pongo2 templates: what real images use, and what hostile ones try."""

import os
from pathlib import Path

import pytest
import yaml

from corral.errors import InvalidRequest
from corral.server.images.formats import ImageMetadata, Template
from corral.server.images.template_files import apply_templates, write_files
from corral.server.images.templates import RenderedFile, TemplateVariables, render_templates
from corral.server.pongo2.engine import translate

VARIABLES = TemplateVariables("c1", "x86_64", config={"user.user-data": "#cloud-config\n\n", "user.n": "3"})


def rendered(source: str, properties: dict[str, str] | None = None) -> str:
    metadata = ImageMetadata("x86_64", 1, templates={"/f": Template(("create",), "t", properties=properties or {})})
    return render_templates(metadata, "create", VARIABLES, lambda _name: source)[0].content.decode()


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("{{ container.name }}\n", "c1\n"),
        ("{{ instance.type }} {{ instance.privileged }} {{ trigger }} {{ path }}", "container false create /f"),
        ('{{ config_get("user.user-data", properties.default) }}|', "#cloud-config|"),
        ('{{ config_get("user.other", properties.default) }}', "fallback"),
        ('{% if config_get("user.x", "") == "" %}none{% else %}some{% endif %}', "none"),
        ('{% if config_get("user.x", "") == "" && !properties.absent %}both{% endif %}', "both"),
        ("{% if properties.absent || properties.default %}either{% endif %}", "either"),
        ('{{ properties.absent|default:"x" }}{{ "a,b"|split:","|join:"-" }}', "xa-b"),
        ('{% ifequal container.name "c1" %}same{% else %}other{% endifequal %}', "same"),
        ('{% ifnotequal container.name "c1" %}same{% else %}other{% endifnotequal %}', "other"),
        ("{% for x in properties.absent %}x{% empty %}none{% endfor %}", "none"),
        ("a{% comment %}{{ nonsense( }}{% endcomment %}b{# c #}", "ab"),
        ("{% autoescape off %}{{ properties.html }}{% endautoescape %}", "<a>"),
        ("a\n{%- if true %}\nb{% endif -%}\nc", "a\nbc"),
        ('{{ config["user.n"]|add:4 }}{{ 3|add:4 }}', "347"),
        ("{{ nothing.at.all }}!", "!"),
        ("{% verbatim %}{{ x }}{% endverbatim %}", "{{ x }}"),
        ('{{ "a|upper:b && c"|upper }}', "A|UPPER:B && C"),
    ],
)
def test_pongo2_as_images_use_it(source: str, result: str) -> None:
    assert rendered(source, {"default": "fallback", "html": "<a>"}) == result


NETWORK_SEED = """\
{% if config_get("user.network-config", "") == "" %}version: 1
config:
  - type: physical
    name: {% if instance.type == "virtual-machine" %}enp5s0{% else %}eth0{% endif %}
    subnets:
      - type: {% if config_get("user.network_mode", "") == "link-local" %}manual{% else %}dhcp{% endif %}
        control: auto{% else %}{{ config_get("user.network-config", "") }}{% endif %}
"""
"""What Debian's and Ubuntu's images have the seed of cloud-init's network made of."""


@pytest.mark.parametrize(
    ("config", "kind", "result"),
    [
        ({}, "container", {"name": "eth0", "subnets": [{"type": "dhcp", "control": "auto"}]}),
        (
            {"user.network_mode": "link-local"},
            "virtual-machine",
            {"name": "enp5s0", "subnets": [{"type": "manual", "control": "auto"}]},
        ),
        (
            {"user.network-config": "version: 1\nconfig:\n  - {type: physical, name: lan}\n"},
            "container",
            {"name": "lan"},
        ),
    ],
)
def test_seed_of_the_network(config: dict[str, str], kind: str, result: dict[str, object]) -> None:
    metadata = ImageMetadata("x86_64", 1, templates={"/f": Template(("create",), "t")})
    variables = TemplateVariables("c1", "x86_64", type=kind, config=config)
    text = render_templates(metadata, "create", variables, lambda _name: NETWORK_SEED)[0].content.decode()
    assert yaml.safe_load(text) == {"version": 1, "config": [{"type": "physical", **result}]}


@pytest.mark.parametrize(
    "source",
    [
        '{% include "/etc/passwd" %}',
        '{% extends "/etc/passwd" %}',
        '{% import "x" as x %}',
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ container.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ config_get.__globals__['os'].system('id') }}",
        "{{ container.name.ljust(1000000000) }}",
        "{{ 'a' * 1000000000 }}",
        "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
        "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a|join:a %}" * 10 + "{{ a }}",
        "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
        "{% for a in c %}{% endfor %}".replace("c", "'" + "x" * 1000 + "'") * 200,
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ nothing(",
        "{{ 1 / 0 }}",
        "x" * 300_000,
    ],
)
def test_hostile_templates_are_refused_or_harmless(source: str) -> None:
    try:
        assert len(rendered(source)) < 100
    except InvalidRequest as error:
        assert "Failed to render template 't' for /f" in str(error)  # noqa: PT017


def test_translation_leaves_text_alone() -> None:
    assert translate("a && b | c:d !e") == "a && b | c:d !e"


def written(root: Path, path: str, content: bytes = b"new", create_only: bool = False) -> list[str]:
    return write_files(root, [RenderedFile(path, content, create_only)], (os.getuid(), os.getgid()))


def test_files_are_written_with_their_directories(tmp_path: Path) -> None:
    assert written(tmp_path, "/etc/a/b/hostname") == ["/etc/a/b/hostname"]
    assert (tmp_path / "etc/a/b/hostname").read_bytes() == b"new"
    assert (tmp_path / "etc/a/b/hostname").stat().st_mode & 0o7777 == 0o644
    (tmp_path / "etc/a/b/hostname").chmod(0o600)
    assert written(tmp_path, "/etc/a/b/hostname", b"x") == ["/etc/a/b/hostname"]
    assert (tmp_path / "etc/a/b/hostname").read_bytes() == b"x"
    assert (tmp_path / "etc/a/b/hostname").stat().st_mode & 0o7777 == 0o600
    assert written(tmp_path, "/etc/a/b/hostname", b"y", create_only=True) == []
    assert (tmp_path / "etc/a/b/hostname").read_bytes() == b"x"


@pytest.mark.parametrize("link", ["{outside}", "../../../../../../../..{outside}"])
def test_links_never_lead_out_of_the_root(tmp_path: Path, link: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "passwd").write_text("old")
    (root / "etc").symlink_to(link.format(outside=outside))
    (root / "file").symlink_to(link.format(outside=outside) + "/passwd")
    for path in ("/etc/passwd", "/etc/new", "/file"):
        try:
            written(root, path)
        except InvalidRequest as error:
            assert "Failed to create template file" in str(error)  # noqa: PT017
    assert (outside / "passwd").read_text() == "old"
    assert [entry.name for entry in outside.iterdir()] == ["passwd"]


def test_a_fifo_in_the_way_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hostname")
    with pytest.raises(InvalidRequest, match="/hostname"):
        written(tmp_path, "/hostname")


def test_an_instance_directory_gets_what_is_due(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/t").write_text("{{ container.name }}\n")
    (tmp_path / "metadata.yaml").write_text(
        "architecture: x86_64\ncreation_date: 1\ntemplates: {/h: {when: [create], template: t}}\n"
    )
    owner = (os.getuid(), os.getgid())
    assert apply_templates(tmp_path, "start", VARIABLES, owner) == []
    assert apply_templates(tmp_path, "create", VARIABLES, owner) == ["/h"]
    assert (tmp_path / "rootfs/h").read_text() == "c1\n"
