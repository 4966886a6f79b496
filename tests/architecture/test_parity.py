"""What people can do on the pages, programs can by the API and operators on the command line; what not, says why.

A new route or command belongs into a row of OPERATIONS: beside its siblings, or with the reason that it has none.
"""

from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import typer

from broker.cli import app as command_line
from broker.web.access import served_routes
from broker.web.app import create_app


@dataclass(frozen=True)
class Operation:
    """One thing to do or to look at: page, API and command, as far as there are."""

    what: str
    pages: tuple[str, ...]
    api: tuple[str, ...]
    commands: tuple[str, ...]
    why: str
    """Why something is missing."""


def can(what, pages="", api="", commands="", why=""):
    """Read a row: several of a kind are separated by commas."""
    return Operation(what, *(tuple(filter(None, text.split(", "))) for text in (pages, api, commands)), why)


PERSON = "about the session of a person in a browser"
MACHINE = "needs the machine: files, processes or the database itself"
PART = "renews a part of a page"

OPERATIONS = [
    can("see how it stands", "GET /", "GET /api/overview", "overview"),
    can("renew the overview", "GET /overview/live, GET /overview/stream", why=PART),
    can("renew the badges of the rail", "GET /needs", why=PART),
    can("read the handover", "GET /handover", "GET /api/handover", "handover"),
    can("find anything", "GET /find, POST /find", "POST /api/find", "find"),
    can("list who talks to us", "GET /", "GET /api/sources", "sources list"),
    can(
        "see that it serves", "GET /healthz", commands="health", why="/healthz is JSON, and open to monitors"
    ),
    can("read the metrics", "GET /metrics", why="for Prometheus, which reads nothing else"),
    can("read the description", "GET /openapi.json", why="for programs, of the API itself"),
    # orders, worklist, images
    can("list the worklist", "GET /worklist", "GET /api/worklist", "worklist list"),
    can("search the worklist", "POST /worklist", "POST /api/worklist/search", "find"),
    can(
        "print a day",
        "GET /worklist/print",
        commands="worklist print",
        why="for paper; the API lists the day",
    ),
    can("renew states of the worklist", "GET /worklist/states", why=PART),
    can("list orders", "GET /orders", "GET /api/orders", "orders list"),
    can("search orders", "POST /orders", "POST /api/orders/search", "find"),
    can(
        "see an order",
        "GET /orders/{order_id}",
        "GET /api/orders/{order_id}, GET /api/orders/{order_id}/entry",
        "orders show",
    ),
    can(
        "see what happened to an order",
        "GET /orders/{order_id}",
        "GET /api/orders/{order_id}/timeline",
        "orders timeline",
    ),
    can(
        "ask whether a device sees an order",
        "GET /orders/{order_id}, POST /devices/{ae_title:path}/would",
        "GET /api/orders/{order_id}/sights",
        "worklist explain",
    ),
    can("list studies", "GET /images", "GET /api/studies", "images list"),
    can("search studies", "POST /images", "POST /api/studies/search", "find"),
    can(
        "see a study",
        "GET /studies/{study_instance_uid}",
        "GET /api/studies/{study_instance_uid}",
        "images show",
    ),
    can(
        "see what happened to a study",
        "GET /studies/{study_instance_uid}",
        "GET /api/studies/{study_instance_uid}/timeline",
        "images timeline",
    ),
    can(
        "ask why a study went where it went",
        "GET /studies/{study_instance_uid}",
        "GET /api/studies/{study_instance_uid}/routes",
        "routes explain",
    ),
    can(
        "see a small picture",
        "GET /instances/{instance_id}/preview",
        "GET /api/instances/{instance_id}/preview",
        why="a terminal shows no pictures",
    ),
    # messages
    can("list messages received", "GET /messages", "GET /api/messages", "messages list"),
    can("list messages sent", "GET /messages", "GET /api/messages/sent", "messages sent"),
    can(
        "see a message received",
        "GET /messages/{message_id}, GET /messages/{message_id}/raw",
        "GET /api/messages/{message_id}, GET /api/messages/{message_id}/raw",
        "messages show",
    ),
    can(
        "see a message sent",
        "GET /messages/out/{delivery_id}",
        "GET /api/messages/sent/{delivery_id}",
        "messages show",
    ),
    can(
        "read a message again",
        "GET /messages/{message_id}",
        "GET /api/messages/{message_id}",
        "messages explain",
    ),
    can("send a message to us", commands="hl7 send", why="a client of our port, not of the pages"),
    # deliveries
    can("list deliveries", "GET /deliveries", "GET /api/deliveries", "deliveries list"),
    can("group the dead by cause", "GET /deliveries", "GET /api/deliveries/causes", "deliveries causes"),
    can(
        "see a delivery",
        "GET /deliveries/{delivery_id}",
        "GET /api/deliveries/{delivery_id:int}, GET /api/deliveries/{delivery_id}/timeline, "
        "GET /api/deliveries/{delivery_id}/items",
        "deliveries show",
    ),
    can(
        "retry a delivery",
        "POST /deliveries/{delivery_id}/retry",
        "POST /api/deliveries/{delivery_id}/retry",
        "deliveries retry",
    ),
    can(
        "cancel a delivery",
        "POST /deliveries/{delivery_id}/cancel",
        "POST /api/deliveries/{delivery_id}/cancel",
        "deliveries cancel",
    ),
    can(
        "release a delivery",
        "POST /deliveries/{delivery_id}/release",
        "POST /api/deliveries/{delivery_id}/release",
        "deliveries release",
    ),
    can(
        "review an act on many",
        "GET /deliveries/review",
        "POST /api/deliveries/preview",
        "deliveries retry, deliveries cancel, deliveries release, deliveries retarget, deliveries priority",
    ),
    can(
        "act on many",
        "POST /operations",
        "POST /api/operations",
        "deliveries retry, deliveries cancel, deliveries release, deliveries retarget, deliveries priority",
    ),
    can("list acts on many", "GET /operations", "GET /api/operations", "operations list"),
    can(
        "see how far an act on many is",
        "GET /operations/{operation_id}",
        "GET /api/operations/{operation_id}",
        "operations show",
    ),
    can("renew how far it is", "GET /operations/{operation_id}/live", why=PART),
    can(
        "stop an act on many",
        "POST /operations/{operation_id}/stop",
        "POST /api/operations/{operation_id}/stop",
        "operations stop",
    ),
    # destinations
    can("list destinations", "GET /destinations", "GET /api/destinations", "destinations list"),
    can(
        "see a destination",
        "GET /destinations/{name}",
        "GET /api/destinations/{name}",
        "destinations show",
    ),
    can(
        "test a destination",
        "POST /destinations/{name}/test, GET /destinations/{name}/test",
        "POST /api/destinations/{name}/test, GET /api/destinations/{name}/test",
        "destinations check",
    ),
    can(
        "pause a destination",
        "POST /destinations/{name}/pause",
        "POST /api/destinations/{name}/pause",
        "destinations pause",
    ),
    can(
        "drain a destination",
        "POST /destinations/{name}/drain",
        "POST /api/destinations/{name}/drain",
        "destinations drain",
    ),
    can(
        "let a destination go on",
        "POST /destinations/{name}/resume",
        "POST /api/destinations/{name}/resume",
        "destinations resume",
    ),
    # devices
    can("list devices", "GET /devices", "GET /api/devices", "devices list"),
    can("list who was refused", "GET /devices", "GET /api/knocks", "devices knocks"),
    can("list who is let in", "GET /devices", "GET /api/admissions", "devices admissions"),
    can("let a device in", "POST /devices/admit", "POST /api/admissions", "devices admit"),
    can(
        "let a device in no longer",
        "POST /devices/admissions/{admission}/end",
        "POST /api/admissions/{admission}/end",
        "devices end",
    ),
    can("see a device", "GET /devices/{ae_title:path}", "GET /api/devices/{ae_title:path}", "devices show"),
    can(
        "see what a device sees",
        "GET /devices/{ae_title:path}",
        "GET /api/devices/{ae_title:path}/worklist",
        "devices worklist",
    ),
    can(
        "read a device's passport",
        "GET /devices/{ae_title:path}/passport",
        "GET /api/devices/{ae_title:path}/passport",
        "devices passport",
    ),
    can("tick off what works", "GET /devices/{ae_title:path}/ticks", why=PART),
    # rules
    can("list the rules", "GET /routes", "GET /api/routes", "routes list"),
    can(
        "try a study on the rules",
        "GET /routes",
        "GET /api/studies/{study_instance_uid}/routes/now",
        "routes try",
    ),
    # alerts
    can("list alerts", "GET /alerts", "GET /api/alerts, GET /api/alerts/over", "alerts list"),
    can("see an alert", "GET /alerts", "GET /api/alerts/{alert_id:int}", "alerts show"),
    can(
        "take an alert in hand",
        "POST /alerts/{alert_id}/acknowledge",
        "POST /api/alerts/{alert_id}/acknowledge",
        "alerts ack",
    ),
    can("test the channels", "POST /alerts/test", "POST /api/alerts/test", "alerts test"),
    can("list maintenance", "GET /alerts", "GET /api/maintenance", "maintenance list"),
    can("plan maintenance", "POST /maintenance", "POST /api/maintenance", "maintenance add"),
    can(
        "end maintenance",
        "POST /maintenance/{window_id}/end",
        "POST /api/maintenance/{window_id}/end",
        "maintenance end",
    ),
    # accounts and the trail
    can("list accounts", "GET /admin", "GET /api/accounts, GET /api/accounts/{name}", "users list"),
    can("add an account", "POST /admin/accounts", "POST /api/accounts", "users add"),
    can(
        "give an account another role",
        "POST /admin/accounts/{name}/role",
        "POST /api/accounts/{name}/role",
        "users role",
    ),
    can(
        "disable an account",
        "POST /admin/accounts/{name}/disable",
        "POST /api/accounts/{name}/disable",
        "users disable",
    ),
    can(
        "enable an account",
        "POST /admin/accounts/{name}/enable",
        "POST /api/accounts/{name}/enable",
        "users enable",
    ),
    can(
        "set a password",
        "POST /admin/accounts/{name}/password",
        "POST /api/accounts/{name}/password",
        "users password",
    ),
    can("list who is signed in", "GET /admin", "GET /api/sessions", "users sessions"),
    can(
        "sign somebody out",
        "POST /admin/sessions/{session_id}/end",
        "POST /api/sessions/{session_id}/end",
        "users sign-out",
    ),
    can("list tokens", "GET /admin", "GET /api/tokens", "tokens list"),
    can("issue a token", "POST /admin/tokens", "POST /api/tokens", "tokens issue"),
    can(
        "revoke a token",
        "POST /admin/tokens/{token_id}/revoke",
        "POST /api/tokens/{token_id}/revoke",
        "tokens revoke",
    ),
    can("search the trail", "GET /admin/audit, POST /admin/audit", "POST /api/audit/search", "audit list"),
    can(
        "take what was found in the trail away",
        "POST /admin/audit/download",
        "POST /api/audit/search",
        "audit list",
    ),
    can("verify the trail", "POST /admin/audit/verify", "POST /api/audit/verify", "audit verify"),
    can(
        "see what collectors of audit messages have",
        "GET /admin/audit",
        "GET /api/audit/collectors",
        "audit collectors",
    ),
    can("ask who one is", "GET /account", "GET /api/session", why="the command line is whoever runs it"),
    can("sign in", "GET /sign-in, POST /sign-in", why=PERSON),
    can("sign out", "POST /sign-out", why=PERSON),
    can("make the first account", "GET /first-run, POST /first-run", why=PERSON),
    can("change one's password", "GET /account, POST /account/password", why=PERSON),
    can("hide names", "POST /account/privacy", why=PERSON),
    # wire captures
    can(
        "list captures",
        "GET /admin/captures",
        "GET /api/captures, GET /api/captures/{capture}",
        "captures list",
    ),
    can("begin a capture", "POST /admin/captures", "POST /api/captures", "captures start"),
    can(
        "stop a capture",
        "POST /admin/captures/{capture}/stop",
        "POST /api/captures/{capture}/stop",
        "captures stop",
    ),
    can(
        "take a capture away",
        "POST /admin/captures/{capture}/pcap",
        "GET /api/captures/{capture}/pcap",
        "captures download",
    ),
    can(
        "remove a capture",
        "POST /admin/captures/{capture}/delete",
        "DELETE /api/captures/{capture}",
        "captures delete",
    ),
    # running it
    can("send a synthetic exam", "POST /probe", "POST /api/probe", "probe"),
    can("list synthetic exams", "GET /probe", "GET /api/probe", "probe"),
    can("see a synthetic exam", "GET /probe/{run}", "GET /api/probe/{run}", "probe"),
    can("renew how far an exam is", "GET /probe/{run}/live", why=PART),
    can(
        "pack a support bundle",
        api="POST /api/support-bundle",
        commands="support-bundle",
        why="for who helps from afar, asked for by them",
    ),
    # configuration
    can("see what is in force", "GET /admin/configuration", "GET /api/configuration", "config history"),
    can(
        "list changes of the configuration",
        "GET /admin/configuration",
        "GET /api/configuration/history",
        "config history",
    ),
    can(
        "compare two versions", "GET /admin/configuration/diff", "GET /api/configuration/diff", "config diff"
    ),
    can(
        "read a version",
        "GET /admin/configuration/{configuration_id}",
        "GET /api/configuration/versions/{configuration_id}",
        "config show",
    ),
    can(
        "check a site file",
        "POST /admin/configuration/check",
        "POST /api/configuration/check",
        "config check",
    ),
    can("apply a site file", "POST /admin/configuration", "POST /api/configuration", "config apply"),
    can(
        "bring a version back",
        "POST /admin/configuration/{configuration_id}/rollback",
        "POST /api/configuration/versions/{configuration_id}/rollback",
        "config rollback",
    ),
    can(
        "have the roles replaced",
        "POST /admin/configuration/reload",
        "POST /api/configuration/reload",
        "config apply",
    ),
    can(
        "see how long certificates are good",
        "GET /admin/certificates",
        "GET /api/certificates",
        "certificates list",
    ),
    can("back up", commands="backup", why=MACHINE),
    can("restore", commands="restore", why=MACHINE),
    can("bring the schema up to date", commands="db migrate", why=MACHINE),
    can("serve", commands="serve, run", why=MACHINE),
    can("watch a demonstration", commands="demo", why=MACHINE),
    can("complete commands", commands="completion", why="about the shell"),
]


def routes():
    """Answer every route that is served, as `METHOD path`."""
    stub = SimpleNamespace(version="0", metrics_open=False, pace=None)
    for route in served_routes(create_app(stub)):
        for method in route.methods:
            yield f"{method} {route.path}"


def commands(command, name=""):
    if hasattr(command, "commands"):
        for child, inner in command.commands.items():
            yield from commands(inner, f"{name} {child}".strip())
    else:
        yield name


@pytest.mark.parametrize(
    ("kind", "there_are"),
    [
        ("pages", [one for one in routes() if " /api/" not in one]),
        ("api", [one for one in routes() if " /api/" in one]),
        ("commands", list(commands(typer.main.get_command(command_line)))),
    ],
)
def test_every_route_and_command_stands_beside_its_siblings(kind, there_are):
    told = {one for operation in OPERATIONS for one in getattr(operation, kind)}
    assert sorted(set(there_are) - told) == [], "belongs into a row of OPERATIONS"
    assert sorted(told - set(there_are)) == [], "is not there any more"


def test_whatever_is_missing_somewhere_has_a_reason():
    for operation in OPERATIONS:
        missing = not (operation.pages and operation.api and operation.commands)
        assert bool(operation.why) == missing, operation.what


def test_an_operation_is_told_once():
    counted = Counter(operation.what for operation in OPERATIONS)
    assert [what for what, number in counted.items() if number > 1] == []
