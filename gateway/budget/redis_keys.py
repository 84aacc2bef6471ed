"""Names of the ledger's keys, and what an epoch says.

``tg:{<org>}:<name>``: the braces put all keys of an org into one cluster slot. Across orgs there are
``tg:epoch`` (of the whole store) and the set of orgs. On a single store that is ``tg:orgs``. In a cluster it
is ``{tg:epoch}:orgs``, in the slot of ``tg:epoch``: a shard that is emptied takes both or neither. With both,
no org can be opened (an org that was opened before, on another shard, goes on: its books are there). With
neither, the set still names the orgs whose books the shard has lost, and those are closed. Apart, an emptied
shard that had the set and an org's books, but not the epoch, would be taken for one where that org is new.

An epoch is ``<term>.<random>``. Terms grow: they are Unix milliseconds at founding, and one more than the
last at least. A process that has met a term takes no lower one: a primary that was replaced and comes back
with its old books is closed to whoever knows its successor. One without a number (version 1's) has term 0.
"""

from __future__ import annotations

import secrets
from typing import Final

from gateway.contract.ids import OrgId

EPOCH_KEY: Final = "tg:epoch"
ORGS_KEY: Final = "tg:orgs"
CLUSTER_ORGS_KEY: Final = f"{{{EPOCH_KEY}}}:orgs"
FENCED: Final = "fenced"
"""In place of the random part: nobody may write here any more."""


def org_key(org: OrgId, name: str) -> str:
    """``tg:{org}:name``."""
    return f"tg:{{{org}}}:{name}"


def new_epoch(term: int) -> str:
    """An epoch that never was."""
    return f"{term}.{secrets.token_hex(16)}"


def term_of(epoch: str) -> int:
    """See above."""
    number, dot, _ = epoch.partition(".")
    return int(number) if dot and number.isdecimal() else 0


def is_fenced(epoch: str) -> bool:
    """Whether the store was closed by a promotion."""
    return epoch.rpartition(".")[2] == FENCED
