BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE attempts (
	attempt VARCHAR NOT NULL, 
	evaluation VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	machine_type VARCHAR NOT NULL, 
	engine VARCHAR NOT NULL, 
	result_key VARCHAR NOT NULL, 
	level VARCHAR NOT NULL, 
	reference BOOLEAN NOT NULL, 
	wall_time_scale FLOAT NOT NULL, 
	speed_ratio_upper FLOAT, 
	handle VARCHAR, 
	planned_at VARCHAR(27) NOT NULL, 
	submitted_at VARCHAR(27), 
	verdict VARCHAR, 
	node VARCHAR, 
	started_at VARCHAR(27), 
	ended_at VARCHAR(27), 
	measurements TEXT, 
	exit_status INTEGER, 
	signal INTEGER, 
	signature TEXT, 
	detail TEXT, 
	predictions_digest VARCHAR, 
	predictions_rows INTEGER, 
	log_digest VARCHAR, 
	reported_by VARCHAR, 
	fenced TEXT, 
	planned_seq INTEGER NOT NULL, 
	ended_seq INTEGER, 
	PRIMARY KEY (attempt), 
	FOREIGN KEY(evaluation) REFERENCES evaluations (evaluation), 
	UNIQUE (evaluation, number), 
	UNIQUE (result_key)
);
INSERT INTO "attempts" VALUES('s-1.private_test.1','s-1.private_test',1,1,'local','memory','key-s-1.private_test-1','runc',1,1.0,NULL,'h','2026-01-01T00:00:00.007000Z','2026-01-01T00:00:00.008000Z','ok','n-1','2026-01-01T00:00:00.000000Z','2026-01-01T00:01:00.000000Z','{"cpu_seconds":1e-07,"gpu_peak_memory_bytes":null,"log_bytes":0,"nearest_limit":null,"nearest_limit_share":null,"oom_kills":0,"output_bytes":0,"output_files":0,"peak_memory_bytes":1099511627776,"pids_peak":null,"pids_refused":0,"preparation_seconds":0.0,"wall_seconds":0.30000000000000004}',NULL,NULL,'','','sha256:0000000000000000000000000000000000000000000000000000000000000007',NULL,NULL,'worker',NULL,7,9);
INSERT INTO "attempts" VALUES('s-2.private_test.1','s-2.private_test',1,1,'local','memory','key-s-2.private_test-1','runc',1,1.0,NULL,'h','2026-01-01T00:00:00.013000Z','2026-01-01T00:00:00.014000Z','ok','n-1','2026-01-01T00:00:00.000000Z','2026-01-01T00:01:00.000000Z','{"cpu_seconds":1e-07,"gpu_peak_memory_bytes":null,"log_bytes":0,"nearest_limit":null,"nearest_limit_share":null,"oom_kills":0,"output_bytes":0,"output_files":0,"peak_memory_bytes":1099511627776,"pids_peak":null,"pids_refused":0,"preparation_seconds":0.0,"wall_seconds":0.30000000000000004}',NULL,NULL,'','','sha256:0000000000000000000000000000000000000000000000000000000000000007',NULL,NULL,'worker',NULL,13,15);
CREATE TABLE controllers (
	epoch INTEGER NOT NULL, 
	host VARCHAR NOT NULL, 
	pid INTEGER NOT NULL, 
	boot_id VARCHAR NOT NULL, 
	started_at VARCHAR(27) NOT NULL, 
	stopped_at VARCHAR(27), 
	stop_reason TEXT, 
	PRIMARY KEY (epoch)
);
INSERT INTO "controllers" VALUES(1,'here',15772,'a10e1190-ca97-4510-8a41-190490d597b7','2026-01-01T00:00:00.005000Z','2026-01-01T00:00:00.019000Z','finished');
CREATE TABLE evaluations (
	evaluation VARCHAR NOT NULL, 
	submission VARCHAR NOT NULL, 
	phase VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	open_attempt VARCHAR, 
	last_verdict VARCHAR, 
	verdict VARCHAR, 
	attempt VARCHAR, 
	reason TEXT NOT NULL, 
	requested_at VARCHAR(27) NOT NULL, 
	ended_at VARCHAR(27), 
	predictions_digest VARCHAR, 
	PRIMARY KEY (evaluation), 
	FOREIGN KEY(submission) REFERENCES submissions (submission), 
	UNIQUE (submission, phase)
);
INSERT INTO "evaluations" VALUES('s-1.private_test','s-1','private_test',1,1,1,NULL,'ok','ok','s-1.private_test.1','','2026-01-01T00:00:00.006000Z','2026-01-01T00:00:00.010000Z','sha256:0000000000000000000000000000000000000000000000000000000000000007');
INSERT INTO "evaluations" VALUES('s-2.private_test','s-2','private_test',2,1,1,NULL,'ok','ok','s-2.private_test.1','','2026-01-01T00:00:00.012000Z','2026-01-01T00:00:00.016000Z','sha256:0000000000000000000000000000000000000000000000000000000000000007');
CREATE TABLE events (
	seq INTEGER NOT NULL, 
	prev VARCHAR(64) NOT NULL, 
	time VARCHAR(27) NOT NULL, 
	epoch INTEGER, 
	kind VARCHAR(64) NOT NULL, 
	payload TEXT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (hash), 
	UNIQUE (prev)
);
INSERT INTO "events" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000000','2026-01-01T00:00:00.001000Z',NULL,'ledger.created','{"campaign":"c-1","challenge_name":"faces"}','af701ba2e57dbab896eb6887bf33a5ceb5cad9dddefdaafb461d613210e81e78');
INSERT INTO "events" VALUES(2,'af701ba2e57dbab896eb6887bf33a5ceb5cad9dddefdaafb461d613210e81e78','2026-01-01T00:00:00.002000Z',NULL,'phase.recorded','{"data_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000001","files":3,"labels_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000002","phase":"private_test"}','1c6e570a3f69da71837adc1d1b5d2ce4ea94b4f7f478e4851fed06ef3da3801b');
INSERT INTO "events" VALUES(3,'1c6e570a3f69da71837adc1d1b5d2ce4ea94b4f7f478e4851fed06ef3da3801b','2026-01-01T00:00:00.003000Z',NULL,'submission.imported','{"identity_commitment":"sha256:b373c25d028966a35bd1206c2e2db32e9dd98a872a28bbe4d8edca5e7b815d70","image":"sha256:0000000000000000000000000000000000000000000000000000000000000065","public_runtime_seconds":null,"public_score":0.14285714285714285,"same_image_as":null,"submission":"s-1","submission_kind":"cpu","team":"t-0"}','5b69603e1aa416431932ec922abcfecee4c2a3d97d33ae1f76daeb90081572d6');
INSERT INTO "events" VALUES(4,'5b69603e1aa416431932ec922abcfecee4c2a3d97d33ae1f76daeb90081572d6','2026-01-01T00:00:00.004000Z',NULL,'submission.imported','{"identity_commitment":"sha256:89e1307c35e3af961968602f0ccab6c747482010ab0218ff78380a92c9903c19","image":"sha256:0000000000000000000000000000000000000000000000000000000000000066","public_runtime_seconds":null,"public_score":0.2857142857142857,"same_image_as":null,"submission":"s-2","submission_kind":"cpu","team":"t-1"}','4c1eaff81cd217b970f0cfd1e5ebd99b8e30b38ec6135409969c9c856e698fca');
INSERT INTO "events" VALUES(5,'4c1eaff81cd217b970f0cfd1e5ebd99b8e30b38ec6135409969c9c856e698fca','2026-01-01T00:00:00.005000Z',1,'controller.started','{"boot_id":"a10e1190-ca97-4510-8a41-190490d597b7","epoch":1,"host":"here","pid":15772}','187c095942fe132abf1c6bbfe6ea58d181692dcfb4febbf49a119db0c9e8d248');
INSERT INTO "events" VALUES(6,'187c095942fe132abf1c6bbfe6ea58d181692dcfb4febbf49a119db0c9e8d248','2026-01-01T00:00:00.006000Z',1,'evaluation.requested','{"evaluation":"s-1.private_test","order":1,"phase":"private_test","submission":"s-1"}','dd54a8147d7e891f6f43fdd2a3803d8199f85a49bf300ce5632be8dfe66de385');
INSERT INTO "events" VALUES(7,'dd54a8147d7e891f6f43fdd2a3803d8199f85a49bf300ce5632be8dfe66de385','2026-01-01T00:00:00.007000Z',1,'attempt.planned','{"attempt":"s-1.private_test.1","engine":"memory","evaluation":"s-1.private_test","level":"runc","machine_type":"local","number":1,"reference":true,"result_key":"key-s-1.private_test-1","speed_ratio_upper":null,"wall_time_scale":1.0}','e03f095a6c6b2a3dd44f72402200e987a4e989f4423eb5d539762aac28908b49');
INSERT INTO "events" VALUES(8,'e03f095a6c6b2a3dd44f72402200e987a4e989f4423eb5d539762aac28908b49','2026-01-01T00:00:00.008000Z',1,'attempt.submitted','{"attempt":"s-1.private_test.1","handle":"h"}','101f7c8948dd163cc3417aeb288353bdb3566b353d4ed937ffc3f86c0581f559');
INSERT INTO "events" VALUES(9,'101f7c8948dd163cc3417aeb288353bdb3566b353d4ed937ffc3f86c0581f559','2026-01-01T00:00:00.009000Z',1,'attempt.ended','{"attempt":"s-1.private_test.1","detail":"","ended_at":"2026-01-01T00:01:00.000000Z","exit_status":null,"log_digest":null,"measurements":{"cpu_seconds":1e-07,"gpu_peak_memory_bytes":null,"log_bytes":0,"nearest_limit":null,"nearest_limit_share":null,"oom_kills":0,"output_bytes":0,"output_files":0,"peak_memory_bytes":1099511627776,"pids_peak":null,"pids_refused":0,"preparation_seconds":0.0,"wall_seconds":0.30000000000000004},"node":"n-1","predictions_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000007","predictions_rows":null,"reported_by":"worker","signal":null,"signature":"","started_at":"2026-01-01T00:00:00.000000Z","verdict":"ok"}','adefa01eadc05e69b2ffe63da62a57994c1638503361695b73cc3acb097b7cb1');
INSERT INTO "events" VALUES(10,'adefa01eadc05e69b2ffe63da62a57994c1638503361695b73cc3acb097b7cb1','2026-01-01T00:00:00.010000Z',1,'evaluation.ended','{"attempt":"s-1.private_test.1","evaluation":"s-1.private_test","reason":"","verdict":"ok"}','2541c5a01afac42033148fc29a879856fc0513d2e6262efe89b74374b6ac22a1');
INSERT INTO "events" VALUES(11,'2541c5a01afac42033148fc29a879856fc0513d2e6262efe89b74374b6ac22a1','2026-01-01T00:00:00.011000Z',1,'evaluation.scored','{"evaluation":"s-1.private_test","labels_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000002","predictions_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000007","scorer_version":"1","scores":{"log_loss":"0.30000000000000004"}}','3e92b0528fa96e8a7b198acbdc23b3ad8d09fb3316622934be08a2c91b84bf74');
INSERT INTO "events" VALUES(12,'3e92b0528fa96e8a7b198acbdc23b3ad8d09fb3316622934be08a2c91b84bf74','2026-01-01T00:00:00.012000Z',1,'evaluation.requested','{"evaluation":"s-2.private_test","order":2,"phase":"private_test","submission":"s-2"}','9db3d6ab4c5b5f6014fd6c4fd4212a1429dc419840ebf3549327b82754ae8037');
INSERT INTO "events" VALUES(13,'9db3d6ab4c5b5f6014fd6c4fd4212a1429dc419840ebf3549327b82754ae8037','2026-01-01T00:00:00.013000Z',1,'attempt.planned','{"attempt":"s-2.private_test.1","engine":"memory","evaluation":"s-2.private_test","level":"runc","machine_type":"local","number":1,"reference":true,"result_key":"key-s-2.private_test-1","speed_ratio_upper":null,"wall_time_scale":1.0}','5c8aef0a222943c837de494063a36c091708adc34a24d92bed323c6b3d3b118a');
INSERT INTO "events" VALUES(14,'5c8aef0a222943c837de494063a36c091708adc34a24d92bed323c6b3d3b118a','2026-01-01T00:00:00.014000Z',1,'attempt.submitted','{"attempt":"s-2.private_test.1","handle":"h"}','1c44af81bd839292a4105d581ab7c3064977adc470cfd3a4cf40e43f2c888d61');
INSERT INTO "events" VALUES(15,'1c44af81bd839292a4105d581ab7c3064977adc470cfd3a4cf40e43f2c888d61','2026-01-01T00:00:00.015000Z',1,'attempt.ended','{"attempt":"s-2.private_test.1","detail":"","ended_at":"2026-01-01T00:01:00.000000Z","exit_status":null,"log_digest":null,"measurements":{"cpu_seconds":1e-07,"gpu_peak_memory_bytes":null,"log_bytes":0,"nearest_limit":null,"nearest_limit_share":null,"oom_kills":0,"output_bytes":0,"output_files":0,"peak_memory_bytes":1099511627776,"pids_peak":null,"pids_refused":0,"preparation_seconds":0.0,"wall_seconds":0.30000000000000004},"node":"n-1","predictions_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000007","predictions_rows":null,"reported_by":"worker","signal":null,"signature":"","started_at":"2026-01-01T00:00:00.000000Z","verdict":"ok"}','e302cd3081956ea20a21f27808051736ee566092069a40e40c9b63b5ab095095');
INSERT INTO "events" VALUES(16,'e302cd3081956ea20a21f27808051736ee566092069a40e40c9b63b5ab095095','2026-01-01T00:00:00.016000Z',1,'evaluation.ended','{"attempt":"s-2.private_test.1","evaluation":"s-2.private_test","reason":"","verdict":"ok"}','42eb3f365d195150fb32dd5614268419eded3251c713ce7ceed3d6fb0d6bb2a4');
INSERT INTO "events" VALUES(17,'42eb3f365d195150fb32dd5614268419eded3251c713ce7ceed3d6fb0d6bb2a4','2026-01-01T00:00:00.017000Z',1,'evaluation.scored','{"evaluation":"s-2.private_test","labels_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000002","predictions_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000007","scorer_version":"1","scores":{"log_loss":"0.30000000000000004"}}','d5b5bc6658cc1c0fe9651eeb826e538fe9762fc84678693295532ee444c389b1');
INSERT INTO "events" VALUES(18,'d5b5bc6658cc1c0fe9651eeb826e538fe9762fc84678693295532ee444c389b1','2026-01-01T00:00:00.018000Z',1,'campaign.finished','{"phase":"private_test"}','ba1a261117f724f71d48f86ff0e0ad3597cf3532c5bbb44866a883358bd76f49');
INSERT INTO "events" VALUES(19,'ba1a261117f724f71d48f86ff0e0ad3597cf3532c5bbb44866a883358bd76f49','2026-01-01T00:00:00.019000Z',1,'controller.stopped','{"epoch":1,"reason":"finished"}','fee76ed2cbb8401d238dbb5361bd487025eef62eb32a9ee251d89b667bcffbee');
CREATE TABLE identities (
	submission VARCHAR NOT NULL, 
	team VARCHAR NOT NULL, 
	submission_name VARCHAR NOT NULL, 
	team_name VARCHAR NOT NULL, 
	salt VARCHAR NOT NULL, 
	PRIMARY KEY (submission)
);
INSERT INTO "identities" VALUES('s-1','t-0','Submission 1','Team 0','salt');
INSERT INTO "identities" VALUES('s-2','t-1','Submission 2','Team 1','salt');
CREATE TABLE nodes (
	node VARCHAR NOT NULL, 
	boot_id VARCHAR, 
	level VARCHAR, 
	proved BOOLEAN, 
	quarantined BOOLEAN NOT NULL, 
	reason TEXT NOT NULL, 
	released_seq INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	PRIMARY KEY (node)
);
CREATE TABLE phases (
	phase VARCHAR NOT NULL, 
	data_digest VARCHAR NOT NULL, 
	files INTEGER NOT NULL, 
	labels_digest VARCHAR, 
	finished_at VARCHAR(27), 
	PRIMARY KEY (phase)
);
INSERT INTO "phases" VALUES('private_test','sha256:0000000000000000000000000000000000000000000000000000000000000001',3,'sha256:0000000000000000000000000000000000000000000000000000000000000002','2026-01-01T00:00:00.018000Z');
CREATE TABLE scores (
	evaluation VARCHAR NOT NULL, 
	metric VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	predictions_digest VARCHAR NOT NULL, 
	labels_digest VARCHAR NOT NULL, 
	scorer_version VARCHAR NOT NULL, 
	seq INTEGER NOT NULL, 
	PRIMARY KEY (evaluation, metric), 
	FOREIGN KEY(evaluation) REFERENCES evaluations (evaluation)
);
INSERT INTO "scores" VALUES('s-1.private_test','log_loss','0.30000000000000004','sha256:0000000000000000000000000000000000000000000000000000000000000007','sha256:0000000000000000000000000000000000000000000000000000000000000002','1',11);
INSERT INTO "scores" VALUES('s-2.private_test','log_loss','0.30000000000000004','sha256:0000000000000000000000000000000000000000000000000000000000000007','sha256:0000000000000000000000000000000000000000000000000000000000000002','1',17);
CREATE TABLE submissions (
	submission VARCHAR NOT NULL, 
	team VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	image VARCHAR NOT NULL, 
	identity_commitment VARCHAR NOT NULL, 
	public_score FLOAT, 
	public_runtime_seconds FLOAT, 
	same_image_as VARCHAR, 
	seq INTEGER NOT NULL, 
	PRIMARY KEY (submission)
);
INSERT INTO "submissions" VALUES('s-1','t-0','cpu','sha256:0000000000000000000000000000000000000000000000000000000000000065','sha256:b373c25d028966a35bd1206c2e2db32e9dd98a872a28bbe4d8edca5e7b815d70',1.42857142857142849212e-01,NULL,NULL,3);
INSERT INTO "submissions" VALUES('s-2','t-1','cpu','sha256:0000000000000000000000000000000000000000000000000000000000000066','sha256:89e1307c35e3af961968602f0ccab6c747482010ab0218ff78380a92c9903c19',2.85714285714285698425e-01,NULL,NULL,4);
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE INDEX ix_submissions_image ON submissions (image);
CREATE INDEX ix_submissions_team ON submissions (team);
CREATE INDEX evaluations_by_phase ON evaluations (phase, position);
CREATE INDEX attempts_by_end ON attempts (ended_seq);
CREATE INDEX attempts_open ON attempts (planned_seq) WHERE ended_seq IS NULL;
CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_only_at_the_end BEFORE INSERT ON events
       WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM events)
         OR NEW.prev IS NOT coalesce((SELECT hash FROM events ORDER BY seq DESC LIMIT 1), printf('%064d', 0))
       BEGIN SELECT RAISE(ABORT, 'events are only added after the last one'); END;
COMMIT;
