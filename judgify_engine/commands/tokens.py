"""Create, list and revoke tokens. A token is shown once, when it is made; only its hash is kept."""

import argparse
import sys
from datetime import UTC, datetime, timedelta

from judgify_engine.commands.database import with_database
from judgify_engine.commands.options import add_settings, check_tenant, settings
from judgify_engine.errors import SettingsError
from judgify_engine.observe import logs
from judgify_engine.pipeline.access import SCOPES
from judgify_engine.store.tokens import TokenStore

MAX_NAME = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    create = actions.add_parser("create", help="make a token and print it")
    create.add_argument("--tenant", required=True, help="whose judgments it reads and makes")
    create.add_argument("--name", default="", help="for people: who uses it")
    create.add_argument(
        "--scope", action="append", choices=SCOPES, help="what it may do; may be given several times (execute and read)"
    )
    create.add_argument("--expires-days", type=int, metavar="N", help="days until it ends by itself (never)")
    listing = actions.add_parser("list", help="show all tokens")
    revoke = actions.add_parser("revoke", help="end a token; servers refuse it within 5 seconds")
    revoke.add_argument("token_id", help="as `list` shows it")
    for action in (create, listing, revoke):
        add_settings(action)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    config = settings(args)
    logs.configure("console", "warning")
    work = {"create": _create, "list": _list, "revoke": _revoke}[args.action]
    if args.action == "create":
        _check(args)
    return with_database(config, lambda database: work(TokenStore(database), args))


def _check(args: argparse.Namespace) -> None:
    check_tenant("--tenant", args.tenant)
    if len(args.name) > MAX_NAME or not args.name.isprintable():
        raise SettingsError(f"--name must be at most {MAX_NAME} printable characters, got {len(args.name)}")
    if args.expires_days is not None and not 1 <= args.expires_days <= 36_500:
        raise SettingsError(f"--expires-days must be 1 to 36500, got {args.expires_days}")


async def _create(store: TokenStore, args: argparse.Namespace) -> int:
    expires_at = None if args.expires_days is None else datetime.now(UTC) + timedelta(days=args.expires_days)
    token_id, token = await store.create(args.tenant, args.name, sorted(set(args.scope or ["execute", "read"])), expires_at)
    print(token)
    print(f"token {token_id} of tenant {args.tenant}; it is not shown again", file=sys.stderr)
    return 0


async def _list(store: TokenStore, args: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    for row in await store.list():
        state = "active"
        if row["revoked_at"] is not None:
            state = f"revoked {row['revoked_at']:%Y-%m-%d}"
        elif row["expires_at"] is not None:
            state = f"{'expired' if row['expires_at'] <= now else 'until'} {row['expires_at']:%Y-%m-%d}"
        print(f"{row['token_id']}  {state:18}  {row['tenant_id']:20}  {','.join(row['scopes']):22}  {row['name']}")
    return 0


async def _revoke(store: TokenStore, args: argparse.Namespace) -> int:
    if not await store.revoke(args.token_id):
        print(f"judgify-engine: there is no active token {args.token_id!r}", file=sys.stderr)
        return 1
    print(f"token {args.token_id} is revoked", file=sys.stderr)
    return 0
