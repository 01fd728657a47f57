"""The ledger's tables, and what is asked of them."""

LEDGER_FILE = "ledger.sqlite"
SCHEMA_VERSION = 2

TABLES = """
CREATE TABLE IF NOT EXISTS studies (
  key TEXT PRIMARY KEY,
  number INTEGER NOT NULL,
  name TEXT NOT NULL,
  source TEXT NOT NULL,
  target TEXT NOT NULL,
  state TEXT NOT NULL,
  model TEXT NOT NULL,
  settings TEXT NOT NULL,
  version TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  strikes INTEGER NOT NULL DEFAULT 0,
  alone INTEGER NOT NULL DEFAULT 0,
  worker TEXT NOT NULL DEFAULT '',
  lease REAL NOT NULL DEFAULT 0,
  started REAL,
  ended REAL,
  code TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  result TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS by_state ON studies (state);
CREATE INDEX IF NOT EXISTS by_target ON studies (target);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, key TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_key ON files (key);
CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS moving (key TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS again (key TEXT PRIMARY KEY);
CREATE TEMP TABLE mine (key TEXT PRIMARY KEY);
"""
"""``files``: what was written for a study, and lies in the output folder or elsewhere; ``folders``: which were made
for that; ``moving``: studies whose files are on their way; ``again``: what is to be tried again; ``mine``: what is
planned by this process."""
PUT = """
INSERT INTO studies (number, key, name, source, target, model, settings, version, state, code, message)
VALUES ((SELECT coalesce(max(number), 0) + 1 FROM studies), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
  name = excluded.name, source = excluded.source, target = excluded.target, model = excluded.model,
  settings = excluded.settings, version = excluded.version, state = excluded.state, code = excluded.code,
  message = excluded.message, attempts = 0, strikes = 0, alone = 0, worker = '', lease = 0, started = NULL,
  ended = NULL, result = '{}'
"""
"""Plan a study, or refuse it: key, name, source, target, model, settings, version, state, code, message."""
NEXT = """
SELECT key FROM studies JOIN mine USING (key) WHERE state IN ('planned', 'failed') AND model = ? AND settings = ?
ORDER BY state = 'failed', attempts, number LIMIT 1
"""
"""The study to claim next: model, settings."""
CLAIM = """
UPDATE studies SET state = 'running', attempts = attempts + 1, worker = ?, lease = ?, alone = ?, started = ?,
  ended = NULL WHERE key = ?
"""
"""Claim it: worker, lease, alone, started, key."""
FORGET_PROBLEMS = """
DELETE FROM studies WHERE target = '' AND key NOT IN (SELECT key FROM mine)
  AND source IN (SELECT source FROM studies JOIN mine USING (key))
"""
"""Forget what was wrong with folders and archives that were looked at again."""

LEFT = """
SELECT count(*) FROM studies JOIN mine USING (key)
WHERE state IN ('planned', 'running', 'failed') AND model = ? AND settings = ?
"""
"""How many have not ended: model, settings."""
RIVAL = "SELECT 1 FROM studies WHERE target = ? AND target != '' AND key != ? AND state != 'refused' LIMIT 1"
"""Whether another study has a target: target, key."""
LEFTOVER = """
SELECT old.key AS key, old.state AS state, old.worker AS worker, old.lease AS lease, new.key AS heir
FROM mine JOIN studies AS new USING (key) JOIN studies AS old ON old.target = new.target AND old.key != new.key
WHERE new.target != '' AND old.key NOT IN (SELECT key FROM mine)
"""
"""Earlier studies whose target one has that was planned here."""
WAITING = """
SELECT key, target FROM studies JOIN mine USING (key) WHERE state = 'refused' AND code = ? ORDER BY number
"""
"""Studies that were planned here and refused for a reason: code."""
FREE = "UPDATE studies SET state = 'planned', code = '', message = '' WHERE key = ?"
INHERIT = "UPDATE files SET key = ? WHERE key = ?"
WITHOUT_LABELS = """
SELECT DISTINCT key FROM files JOIN mine USING (key) JOIN studies USING (key) WHERE state = 'refused'
"""
"""Studies of this process that are refused and have files."""
MOVING = """
SELECT moving.key AS key, state, worker, lease FROM moving LEFT JOIN studies USING (key)
"""
"""Studies whose files are on their way, or were when their process ended; one that is forgotten has no state."""
TELL_OF = "UPDATE studies SET message = ltrim(message || ?, '; ') WHERE key = ? AND instr(message, ?) = 0"
"""Add to the reason of a study, once: what, key, what."""
WANTED_AGAIN = "INSERT OR IGNORE INTO again SELECT key FROM studies WHERE state = ?"
TAKE_BACK = "UPDATE studies SET state = ?, strikes = ?, code = ?, message = ? WHERE key = ?"
END = """
UPDATE studies SET state = ?, code = ?, message = ?, result = ?, ended = ?, lease = 0, version = ?,
  strikes = strikes + ?, settings = ? WHERE key = ? AND state = 'running' AND worker = ?
"""
"""Record how a study ended: state, code, message, result, ended, version, strike, settings, key, worker."""
OWNED = "SELECT 1 FROM studies WHERE key = ? AND state = 'running' AND worker = ?"
"""Whether a study is in work: key, worker."""
RENEW = "UPDATE studies SET lease = ? WHERE state = 'running' AND worker = ?"
REQUEUE = """
UPDATE studies SET state = 'planned', attempts = max(attempts - 1, 0), worker = '', lease = 0
WHERE key = ? AND state = 'running' AND worker = ?
"""
"""Give a study back: key, worker."""
