-- The tables of release 0.1.0. A statement ends at a semicolon that a line with two dashes follows.
--
CREATE TABLE versions (
  id TEXT NOT NULL,
  task TEXT NOT NULL,
  run_id TEXT NOT NULL,
  model_id TEXT NOT NULL,
  base_model TEXT NOT NULL,
  status TEXT NOT NULL,
  trained_at TEXT NOT NULL,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  dataset_version TEXT,
  evaluated_at TEXT,
  provider TEXT NOT NULL,
  artifact TEXT NOT NULL,
  artifact_sha256 TEXT NOT NULL,
  evaluation_sha256 TEXT NOT NULL,
  reason TEXT NOT NULL,
  fingerprints JSON NOT NULL,
  metadata JSON NOT NULL,
  eval_results JSON,
  PRIMARY KEY (id),
  CONSTRAINT known_status CHECK (status IN ('training', 'evaluating', 'staging', 'production', 'deprecated'))
);
--
CREATE INDEX ix_versions_task ON versions (task);
--
CREATE UNIQUE INDEX one_production_version_per_task ON versions (task) WHERE status = 'production';
--
CREATE TABLE audit (
  id INTEGER NOT NULL,
  at TEXT NOT NULL,
  actor TEXT NOT NULL,
  version TEXT NOT NULL,
  action TEXT NOT NULL,
  because TEXT NOT NULL,
  task TEXT NOT NULL,
  from_status TEXT,
  to_status TEXT,
  evidence JSON NOT NULL,
  generation INTEGER,
  PRIMARY KEY (id)
);
--
CREATE INDEX ix_audit_task ON audit (task);
--
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
--
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
--
CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
--
CREATE TABLE outbox (
  id INTEGER NOT NULL,
  event_id TEXT NOT NULL,
  event JSON NOT NULL,
  created_at TEXT NOT NULL,
  delivered_at TEXT,
  PRIMARY KEY (id),
  UNIQUE (event_id)
);
--
CREATE TABLE routes (
  task TEXT NOT NULL,
  version TEXT,
  previous TEXT,
  generation INTEGER NOT NULL,
  since TEXT NOT NULL,
  PRIMARY KEY (task),
  FOREIGN KEY(version) REFERENCES versions (id),
  FOREIGN KEY(previous) REFERENCES versions (id)
);
