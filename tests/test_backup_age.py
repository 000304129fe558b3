"A backup is an age file: any age tool and the passphrase open it, and it is a compressed archive inside."

import io
import tarfile
import tracemalloc
from datetime import UTC, datetime

import pyarrow as pa
import pyrage
import pytest

from trading.core.errors import TradingError
from trading.ops.backup import restore, snapshot, verify
from trading.security.encrypted_file import DecryptionError, EncryptedWriter, decrypt_stream

WORDS, NOW = "four words of mine", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def backup(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("what was held\n")
    return snapshot(tmp_path / "data", tmp_path / "backups", WORDS, NOW, work=1 << 10)


def test_another_tool_opens_a_backup_with_the_passphrase_alone(backup):
    inside = pyrage.passphrase.decrypt(backup.read_bytes(), WORDS)
    with tarfile.open(fileobj=pa.CompressedInputStream(pa.BufferReader(inside), "zstd"), mode="r|") as tar:
        content = {entry.name: tar.extractfile(entry).read() for entry in tar}
    assert content["data/notes.txt"] == b"what was held\n" and "manifest.json" in content
    with pytest.raises(pyrage.DecryptError):
        pyrage.passphrase.decrypt(backup.read_bytes(), "four words of yours")


def test_a_backup_that_was_cut_off_or_altered_is_one_sentence_and_leaves_nothing(backup, tmp_path):
    whole = backup.read_bytes()
    for n, data in enumerate([whole[:-1], whole[:200], whole[:40], b"", whole[:-20] + b"x" + whole[-19:], whole + b"x", b"PK" + whole]):
        hurt = tmp_path / f"hurt-{n}"
        hurt.write_bytes(data)
        with pytest.raises(TradingError) as refusal:
            restore(hurt, tmp_path / "back", WORDS)
        assert "another backup" in str(refusal.value) or "carnet backup" in str(refusal.value)
        assert "\n" not in str(refusal.value) and not (tmp_path / "back").exists()
    with pytest.raises(DecryptionError, match="the passphrase is wrong"):
        verify(backup, "four words of yours")


def test_content_larger_than_the_memory_passes_through_in_pieces(tmp_path):
    block, blocks = bytes(1 << 20), 64
    tracemalloc.start()
    with (tmp_path / "large").open("wb") as out:
        writer = EncryptedWriter(out, WORDS, 1 << 10)
        for _ in range(blocks):
            writer.write(block)
        writer.close()
    with (tmp_path / "large").open("rb") as file:
        assert sum(len(piece) for piece in decrypt_stream(file, WORDS)) == blocks << 20
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 << 20, f"{most / 1e6:.0f} MB in memory for {blocks} MB of content"


def test_an_age_file_of_another_tool_is_read(tmp_path):
    assert b"".join(decrypt_stream(io.BytesIO(pyrage.passphrase.encrypt(b"theirs", WORDS)), WORDS)) == b"theirs"


def test_a_restored_file_is_no_wider_than_it_was_and_closed_from_its_first_byte(tmp_path, monkeypatch):
    import os
    import sqlite3

    data = tmp_path / "data"
    (data / "ops").mkdir(parents=True)
    modes = {"ops/vault.bin": 0o600, "ops/key": 0o400, "notes.txt": 0o644, "ledger.sqlite": 0o600, "shared.sqlite": 0o640}
    for name, mode in modes.items():
        if name.endswith(".sqlite"):
            with sqlite3.connect(data / name) as db:
                db.execute("create table t (x)")
            db.close()
        else:
            (data / name).write_text("x")
        (data / name).chmod(mode)
    before = os.umask(0)
    try:
        made, seen, real = snapshot(data, tmp_path / "backups", WORDS, NOW, work=1 << 10), [], os.open
        monkeypatch.setattr(os, "open", lambda path, flags, mode=0o777, **k: seen.append(mode) or real(path, flags, mode, **k))
        restore(made, tmp_path / "back", WORDS)
    finally:
        os.umask(before)
    assert {name: (tmp_path / "back" / "data" / name).stat().st_mode & 0o777 for name in modes} == modes
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "back").rglob("*") if f.is_dir()} == {0o700} and made.stat().st_mode & 0o077 == 0
    assert seen.count(0o600) >= len(modes), "closed to others while it was written"
