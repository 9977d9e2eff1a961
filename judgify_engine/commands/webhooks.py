"""The secret that a tenant's webhooks are signed with. It is shown once; a new one replaces it within a day."""

import argparse
import sys

from judgify_engine.commands.database import with_database
from judgify_engine.commands.options import add_settings, check_tenant, settings
from judgify_engine.observe import logs
from judgify_engine.store.pool import Database
from judgify_engine.store.webhook_secrets import WebhookSecrets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    secret = actions.add_parser("secret", help="print the secret of a tenant's webhooks, once")
    secret.add_argument("tenant")
    secret.add_argument("--rotate", action="store_true", help="make a new one; for a day both sign")
    add_settings(secret)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    config = settings(args)
    logs.configure("console", "warning")
    check_tenant("tenant", args.tenant)
    return with_database(config, lambda database: _secret(database, args))


async def _secret(database: Database, args: argparse.Namespace) -> int:
    shown = await WebhookSecrets(database).show(args.tenant, rotate=args.rotate)
    if shown.secret is None:
        when = "" if shown.at is None else f" on {shown.at:%Y-%m-%d}"
        print(f"judgify-engine: this secret was shown{when} and is not shown again; --rotate makes a new one", file=sys.stderr)
        return 1
    print(shown.secret)
    both = "; the one before signs beside it for a day" if args.rotate else ""
    print(f"secret of tenant {args.tenant}; it is not shown again{both}", file=sys.stderr)
    return 0
