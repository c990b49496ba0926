-- The registry as release 0.1.0 made it, with two versions; statements end at a line with two dashes.
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
	id SERIAL NOT NULL, 
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
CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$;
--
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
--
CREATE TABLE outbox (
	id SERIAL NOT NULL, 
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
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (1, '2026-11-25T00:59:05.082904+00:00', 'someone@somewhere', 'v1', 'open', 'training begins', 'toy', NULL, 'training', '{}', NULL);
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (2, '2026-11-25T00:59:05.095072+00:00', 'someone@somewhere', 'v1', 'model', 'training ended', 'toy', NULL, NULL, '{"model_id": "local/v1", "base_model": "tiny", "dataset_version": "d1", "provider": "local", "fingerprints": {"template": "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt", "tokenizer": "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk", "system_prompt": "ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss"}, "artifact": "models/v1/adapter", "artifact_sha256": "a0a1a1a3a83d8c35881e5083e2cfb2cea521b1072b2b81141e067018280afa91"}', NULL);
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (3, '2026-11-25T00:59:05.105258+00:00', 'someone@somewhere', 'v1', 'evaluate', 'measured on the test part', 'toy', 'training', 'evaluating', '{"evaluation_sha256": "98924b7ac9acef4ad5d836dd418958dca94657fa3cfd9bd15712a190b9cecaf5", "accuracy": {"value": 0.8, "low": 0.75, "high": 0.8500000000000001, "n": 60}}', NULL);
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (4, '2026-11-25T00:59:05.126674+00:00', 'someone@somewhere', 'v1', 'promote', 'first', 'toy', 'evaluating', 'production', '{"target": "production", "verdict": "pass", "rules": [{"name": "status", "verdict": "pass", "evidence": "from evaluating to production"}, {"name": "evaluated", "verdict": "pass", "evidence": "60 test rows, sha256 98924b7a"}, {"name": "evaluation_verdict", "verdict": "pass", "evidence": "better than few_shot"}, {"name": "targets", "verdict": "pass", "evidence": "accuracy 0.800 [0.750, 0.850] n=60 against 0.4: yes"}, {"name": "better_than_cheaper_rung", "verdict": "pass", "evidence": "accuracy 0.300 [0.250, 0.350] n=60 against few_shot"}, {"name": "against_production", "verdict": "pass", "evidence": "nothing else is in production; the best cheaper rung is the one to beat"}, {"name": "fingerprints", "verdict": "pass", "evidence": "template tttttttt, tokenizer kkkkkkkk, system_prompt ssssssss"}, {"name": "artifact", "verdict": "pass", "evidence": "models/v1/adapter, sha256 a0a1a1a3"}, {"name": "dataset_checks", "verdict": "pass", "evidence": "d1: 1 checks, every row accounted for"}, {"name": "evaluation_age", "verdict": "pass", "evidence": "0.0 days old, at most 90"}, {"name": "decision", "verdict": "pass", "evidence": "this run made no decision of its own"}, {"name": "not_broken_on_purpose", "verdict": "pass", "evidence": "break_it: nothing"}], "forced": false}', 1);
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (5, '2026-11-25T00:59:05.155572+00:00', 'someone@somewhere', 'v2', 'open', 'training begins', 'toy', NULL, 'training', '{}', NULL);
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (6, '2026-11-25T00:59:05.164069+00:00', 'someone@somewhere', 'v2', 'model', 'training ended', 'toy', NULL, NULL, '{"model_id": "local/v2", "base_model": "tiny", "dataset_version": "d1", "provider": "local", "fingerprints": {"template": "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt", "tokenizer": "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk", "system_prompt": "ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss"}, "artifact": "models/v2/adapter", "artifact_sha256": "b90257df3ed7e80ed91b4f421cdee0c42026bdde98cada42817fa82bbcbb68d4"}', NULL);
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (7, '2026-11-25T00:59:05.172121+00:00', 'someone@somewhere', 'v2', 'evaluate', 'measured on the test part', 'toy', 'training', 'evaluating', '{"evaluation_sha256": "8dac7fcb50c356a801c229e6d41010f15b912b6e5ea4e9db1974507ef77d9776", "accuracy": {"value": 0.8, "low": 0.75, "high": 0.8500000000000001, "n": 60}}', NULL);
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (8, '2026-11-25T00:59:05.192141+00:00', 'someone@somewhere', 'v1', 'displace', 'displaced by v2', 'toy', 'production', 'deprecated', '{}', 2);
--
INSERT INTO audit (id, at, actor, version, action, because, task, from_status, to_status, evidence, generation) VALUES (9, '2026-11-25T00:59:05.194635+00:00', 'someone@somewhere', 'v2', 'promote', '', 'toy', 'evaluating', 'production', '{"target": "production", "verdict": "pass", "rules": [{"name": "status", "verdict": "pass", "evidence": "from evaluating to production"}, {"name": "evaluated", "verdict": "pass", "evidence": "60 test rows, sha256 8dac7fcb"}, {"name": "evaluation_verdict", "verdict": "pass", "evidence": "better than few_shot"}, {"name": "targets", "verdict": "pass", "evidence": "accuracy 0.800 [0.750, 0.850] n=60 against 0.4: yes"}, {"name": "better_than_cheaper_rung", "verdict": "pass", "evidence": "accuracy 0.300 [0.250, 0.350] n=60 against few_shot"}, {"name": "against_production", "verdict": "pass", "evidence": "accuracy 0.000 [-0.045, 0.045] n=60 against v1 (0 gained, 0 lost, margin 0.06)"}, {"name": "fingerprints", "verdict": "pass", "evidence": "template tttttttt, tokenizer kkkkkkkk, system_prompt ssssssss"}, {"name": "artifact", "verdict": "pass", "evidence": "models/v2/adapter, sha256 b90257df"}, {"name": "dataset_checks", "verdict": "pass", "evidence": "d1: 1 checks, every row accounted for"}, {"name": "evaluation_age", "verdict": "pass", "evidence": "0.0 days old, at most 90"}, {"name": "decision", "verdict": "pass", "evidence": "this run made no decision of its own"}, {"name": "not_broken_on_purpose", "verdict": "pass", "evidence": "break_it: nothing"}], "forced": false}', 2);
--
SELECT setval('audit_id_seq', (SELECT max(id) FROM audit));
--
INSERT INTO outbox (id, event_id, event, created_at, delivered_at) VALUES (1, '700e2502efa34a3c99a03599862a0cd4', '{"at": "2026-11-25T00:59:05.129427+00:00", "action": "promote", "task": "toy", "target": "production", "because": "first", "version": "v1", "previous": null, "generation": 1, "since": "2026-11-25T00:59:05.128534+00:00"}', '2026-11-25T00:59:05.129427+00:00', '2026-11-25T00:59:05.138526+00:00');
--
INSERT INTO outbox (id, event_id, event, created_at, delivered_at) VALUES (2, '43982ceb8eed406f85bc4d144515af1f', '{"at": "2026-11-25T00:59:05.196590+00:00", "action": "promote", "task": "toy", "target": "production", "because": "", "version": "v2", "previous": "v1", "generation": 2, "since": "2026-11-25T00:59:05.195514+00:00"}', '2026-11-25T00:59:05.196590+00:00', '2026-11-25T00:59:05.205706+00:00');
--
SELECT setval('outbox_id_seq', (SELECT max(id) FROM outbox));
--
INSERT INTO versions (id, task, run_id, model_id, base_model, status, trained_at, created_at, updated_at, dataset_version, evaluated_at, provider, artifact, artifact_sha256, evaluation_sha256, reason, fingerprints, metadata, eval_results) VALUES ('v1', 'toy', 'run-v1', 'local/v1', 'tiny', 'deprecated', '2026-11-25T00:59:05.093445+00:00', '2026-11-25T00:59:05.080395+00:00', '2026-11-25T00:59:05.191548+00:00', 'd1', '2026-11-25T00:59:05.103846+00:00', 'local', 'models/v1/adapter', 'a0a1a1a3a83d8c35881e5083e2cfb2cea521b1072b2b81141e067018280afa91', '98924b7ac9acef4ad5d836dd418958dca94657fa3cfd9bd15712a190b9cecaf5', 'displaced by v2', '{"template": "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt", "tokenizer": "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk", "system_prompt": "ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss"}', '{}', '{"accuracy": {"value": 0.8, "low": 0.75, "high": 0.8500000000000001, "n": 60}, "format_compliance": {"value": 1.0, "low": 0.95, "high": 1.05, "n": 60}, "latency_p50": {"value": 1.0, "low": 0.95, "high": 1.05, "n": 60}, "latency_p95": {"value": 1.0, "low": 0.95, "high": 1.05, "n": 60}, "cost_per_request": {"value": 1.0, "low": 0.95, "high": 1.05, "n": 60}, "quality_scores": {}}');
--
INSERT INTO versions (id, task, run_id, model_id, base_model, status, trained_at, created_at, updated_at, dataset_version, evaluated_at, provider, artifact, artifact_sha256, evaluation_sha256, reason, fingerprints, metadata, eval_results) VALUES ('v2', 'toy', 'run-v2', 'local/v2', 'tiny', 'production', '2026-11-25T00:59:05.163061+00:00', '2026-11-25T00:59:05.154757+00:00', '2026-11-25T00:59:05.194225+00:00', 'd1', '2026-11-25T00:59:05.171242+00:00', 'local', 'models/v2/adapter', 'b90257df3ed7e80ed91b4f421cdee0c42026bdde98cada42817fa82bbcbb68d4', '8dac7fcb50c356a801c229e6d41010f15b912b6e5ea4e9db1974507ef77d9776', '', '{"template": "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt", "tokenizer": "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk", "system_prompt": "ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss"}', '{}', '{"accuracy": {"value": 0.8, "low": 0.75, "high": 0.8500000000000001, "n": 60}, "format_compliance": {"value": 1.0, "low": 0.95, "high": 1.05, "n": 60}, "latency_p50": {"value": 1.0, "low": 0.95, "high": 1.05, "n": 60}, "latency_p95": {"value": 1.0, "low": 0.95, "high": 1.05, "n": 60}, "cost_per_request": {"value": 1.0, "low": 0.95, "high": 1.05, "n": 60}, "quality_scores": {}}');
--
INSERT INTO routes (task, version, previous, generation, since) VALUES ('toy', 'v2', 'v1', 2, '2026-11-25T00:59:05.195514+00:00');
