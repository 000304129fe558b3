"The key of the chains in a key ring: it goes there when the settings say so, its loss is said, and no ring at all is no disaster."

import contextlib
import os

import keyring
import pytest
from click.testing import CliRunner
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoRing
from keyring.errors import KeyringLocked

from trading.cli.main import main
from trading.core import evidence_key
from trading.core.errors import TradingError
from trading.core.evidence_key import key_file, make_evidence_key, place_evidence_key, read_evidence_key, ring_entry
from trading.core.settings import load_settings
from trading.security.audit_log import AuditLog
from trading.services.evidence import settle_keys

pytestmark = pytest.mark.filterwarnings("ignore")


class Held(KeyringBackend):
    "A key ring of this test; it can be locked, and it can forget."

    priority = 1

    def __init__(self):
        super().__init__()
        self.held, self.locked, self.deaf = {}, False, False

    def get_password(self, service, username):
        if self.locked:
            raise KeyringLocked("Failed to unlock the collection!")
        return self.held.get((service, username))

    def set_password(self, service, username, password):
        if not self.deaf:
            self.held[service, username] = password

    def delete_password(self, service, username):
        del self.held[service, username]


@pytest.fixture
def ring():
    before, mine = keyring.get_keyring(), Held()
    keyring.set_keyring(mine)
    evidence_key._asked.cache_clear()
    yield mine
    keyring.set_keyring(before)
    evidence_key._asked.cache_clear()


def carnet(home, *words, ring=True):
    places = {"CARNET_RUN__DATA": str(home / "data"), "CARNET_RUN__REPORTS": str(home / "reports"), "NO_COLOR": "1",
              "CARNET_BACKUP__KEY_RING": str(ring).lower()}
    evidence_key._asked.cache_clear()  # a process of its own has asked nothing yet
    with contextlib.chdir(home):
        result = CliRunner(env={k: None for k in os.environ if k.startswith("CARNET")} | places).invoke(main, list(words))
    assert "unexpected" not in result.output and "Traceback" not in result.output, result.output
    return result.exit_code, result.output


def settings_at(home, ring=True):
    return load_settings(overrides={"run.data": home / "data", "run.reports": home / "reports", "backup.key_ring": ring}, environ={})


def test_the_key_moves_into_the_ring_and_back_and_what_was_sealed_stays_whole(tmp_path, ring):
    assert carnet(tmp_path, "alias", "XBT", "BTC")[0] == 0 and not ring.held, "made in the file, where commands without a run begin"
    before = read_evidence_key(tmp_path / "data")
    assert settle_keys(settings_at(tmp_path)) == [] and read_evidence_key(tmp_path / "data") == before
    text = key_file(tmp_path / "data").read_text()
    assert text.startswith("ring:") and list(ring.held.values()) and not any(v in text for v in ring.held.values())
    assert key_file(tmp_path / "data").stat().st_mode & 0o777 == 0o600
    assert carnet(tmp_path, "alias", "XETH", "ETH")[0] == 0 and carnet(tmp_path, "audit", "verify")[0] == 0
    assert all(e.seal for e in AuditLog(tmp_path / "data" / "ops" / "audit.jsonl").entries())
    assert settle_keys(settings_at(tmp_path, ring=False)) == [] and not ring.held
    assert ring_entry(tmp_path / "data") == "" and read_evidence_key(tmp_path / "data").key == before.key
    assert carnet(tmp_path, "audit", "verify", ring=False)[0] == 0


def test_a_new_key_is_in_the_ring_from_the_first_run_on(tmp_path, ring):
    assert settle_keys(settings_at(tmp_path)) == [] and ring_entry(tmp_path / "data") and len(ring.held) == 1
    assert settle_keys(settings_at(tmp_path)) == [] and len(ring.held) == 1


def test_a_lost_entry_is_said_by_verify_doctor_and_the_start_of_a_run_and_renewed_by_a_person_only(tmp_path, ring):
    settle_keys(settings_at(tmp_path))
    assert carnet(tmp_path, "alias", "XBT", "BTC")[0] == 0
    ring.held.clear()
    code, told = carnet(tmp_path, "audit", "verify")
    assert code == 4 and "of the key ring) is gone; bring it back from a backup of the key ring" in told, told
    assert any(line.startswith("bad") and "key ring" in line for line in carnet(tmp_path, "doctor")[1].splitlines())
    told = carnet(tmp_path, "run", "--profile", "nowhere")[1] + carnet(tmp_path, "run", "--as-of", "1800-01-01")[1]
    assert "key ring) is gone" in told, told
    assert not ring.held, "nothing replaced it in silence"
    assert carnet(tmp_path, "alias", "XETH", "ETH")[0] == 1, "nothing is done that is not recorded"
    assert "Trading is stopped" in carnet(tmp_path, "kill", "the key is lost")[1], "the brake needs no key"
    assert "a new audit log begins" in carnet(tmp_path, "audit", "renew", "--why", "the ring was wiped")[1]
    assert len(ring.held) == 1 and carnet(tmp_path, "audit", "verify")[0] == 0 and carnet(tmp_path, "alias", "XETH", "ETH")[0] == 0


def test_a_locked_ring_is_not_a_lost_key_and_keeps_nobody_from_the_brake(tmp_path, ring):
    settle_keys(settings_at(tmp_path))
    carnet(tmp_path, "alias", "XBT", "BTC")
    ring.locked = True
    code, told = carnet(tmp_path, "audit", "verify")
    assert code == 1 and "cannot be asked here (Failed to unlock" in told and "is gone" not in told, told
    assert settle_keys(settings_at(tmp_path))[0].startswith("the key of the chains lies in the key ring, which cannot be asked here")
    assert "Trading is stopped" in carnet(tmp_path, "kill", "the ring is locked")[1]
    ring.locked = False
    assert carnet(tmp_path, "audit", "verify")[0] == 0


@pytest.mark.parametrize("how", ["none", "deaf"])
def test_where_no_ring_takes_it_the_key_stays_in_its_file_and_the_reason_is_said(tmp_path, ring, how):
    ring.deaf = True
    if how == "none":
        keyring.set_keyring(NoRing())
    told = settle_keys(settings_at(tmp_path))
    assert len(told) == 1 and "stays in ops/evidence.key" in told[0] and not ring_entry(tmp_path / "data")
    assert key_file(tmp_path / "data").stat().st_mode & 0o777 == 0o600
    assert carnet(tmp_path, "alias", "XBT", "BTC")[0] == 0 and carnet(tmp_path, "audit", "verify")[0] == 0
    assert "the key of the chains still lies in ops/evidence.key" in carnet(tmp_path, "doctor")[1]


@pytest.mark.parametrize("text", ["", "short", "not a key at all, but long enough to be taken for one"])
def test_nonsense_in_the_ring_is_named_and_not_taken_for_a_key(tmp_path, ring, text):
    make_evidence_key(tmp_path, 1)
    place_evidence_key(tmp_path, True)
    ring.held = dict.fromkeys(ring.held, text)
    evidence_key._asked.cache_clear()
    with pytest.raises(TradingError, match="is no key of the chains; put back what was there"):
        read_evidence_key(tmp_path)


def test_each_portfolio_has_an_entry_of_its_own(tmp_path, ring):
    folders = [tmp_path / "data", tmp_path / "data" / "portfolios" / "family"]
    keys = [make_evidence_key(folder, 1) for folder in folders]
    assert [place_evidence_key(folder, True) for folder in folders] == ["", ""] and len(ring.held) == 2
    evidence_key._asked.cache_clear()
    assert [read_evidence_key(folder) for folder in folders] == keys and keys[0] != keys[1]
