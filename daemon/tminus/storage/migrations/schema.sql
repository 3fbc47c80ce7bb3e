CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE agent_session (
	sid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	secret_sha256 VARCHAR NOT NULL,
	agent_id INTEGER NOT NULL,
	token_sha256 VARCHAR NOT NULL,
	started_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	client_app VARCHAR NOT NULL,
	user_agent VARCHAR NOT NULL,
	remote_ip VARCHAR NOT NULL,
	UNIQUE (secret_sha256)
);
CREATE TABLE meta (
	"key" VARCHAR NOT NULL,
	value VARCHAR NOT NULL,
	PRIMARY KEY ("key")
);
CREATE TABLE session (
	id VARCHAR NOT NULL,
	type VARCHAR NOT NULL,
	status VARCHAR NOT NULL,
	label VARCHAR NOT NULL,
	user_description VARCHAR NOT NULL,
	scheduled BOOLEAN NOT NULL,
	agent_id INTEGER NOT NULL,
	organization_id INTEGER NOT NULL,
	created_by JSON NOT NULL,
	start_time BIGINT,
	expires_at BIGINT NOT NULL,
	due_at BIGINT,
	due_trigger VARCHAR,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	opened_at BIGINT,
	activated_at BIGINT,
	empty_since BIGINT,
	closed_at BIGINT,
	close_reason VARCHAR,
	pin INTEGER NOT NULL,
	host_auth_token VARCHAR NOT NULL,
	host_key VARCHAR NOT NULL,
	external_session_object_id VARCHAR NOT NULL,
	settings JSON NOT NULL,
	user_url VARCHAR NOT NULL,
	host_url VARCHAR NOT NULL,
	external_mapping VARCHAR,
	parent_object JSON,
	meta_data JSON,
	participants INTEGER NOT NULL,
	version INTEGER NOT NULL, late_since BIGINT, invitees JSON, reminders VARCHAR, remind_at BIGINT, series_id VARCHAR, series_start VARCHAR,
	PRIMARY KEY (id)
);
CREATE INDEX session_closed ON session (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX session_due ON session (due_at, created_at, id) WHERE due_at IS NOT NULL;
CREATE UNIQUE INDEX session_pin ON session (pin) WHERE pin <> 0;
CREATE TABLE event (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	session_id VARCHAR NOT NULL,
	type VARCHAR NOT NULL,
	ts BIGINT NOT NULL,
	actor VARCHAR NOT NULL,
	previous_status VARCHAR,
	status VARCHAR NOT NULL,
	start_time BIGINT,
	previous_start_time BIGINT,
	expires_at BIGINT NOT NULL,
	due_at BIGINT,
	reason VARCHAR,
	participant_id VARCHAR,
	participants INTEGER NOT NULL,
	request_id VARCHAR,
	FOREIGN KEY(session_id) REFERENCES session (id) ON DELETE CASCADE
);
CREATE TABLE participant (
	id VARCHAR NOT NULL,
	session_id VARCHAR NOT NULL,
	role VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	joined_at BIGINT NOT NULL,
	left_at BIGINT, waiting_since BIGINT,
	PRIMARY KEY (id),
	FOREIGN KEY(session_id) REFERENCES session (id) ON DELETE CASCADE
);
CREATE INDEX ix_participant_session_id ON participant (session_id);
CREATE TABLE retry (
	agent_id INTEGER NOT NULL,
	"key" VARCHAR NOT NULL,
	body_sha256 VARCHAR NOT NULL,
	session_id VARCHAR NOT NULL,
	participant_id VARCHAR,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (agent_id, "key"),
	FOREIGN KEY(session_id) REFERENCES session (id) ON DELETE CASCADE
);
CREATE INDEX ix_retry_session_id ON retry (session_id);
CREATE TABLE endpoint (
	name VARCHAR NOT NULL,
	cursor BIGINT NOT NULL,
	batch_until BIGINT,
	failures INTEGER NOT NULL,
	failing_since BIGINT,
	retry_at BIGINT,
	last_error VARCHAR,
	delivered_at BIGINT,
	paused_at BIGINT,
	pause_reason VARCHAR,
	PRIMARY KEY (name)
);
CREATE TABLE replay (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	endpoint VARCHAR NOT NULL,
	cursor BIGINT NOT NULL,
	until BIGINT NOT NULL,
	session_id VARCHAR,
	failures INTEGER NOT NULL,
	failing_since BIGINT,
	retry_at BIGINT
);
CREATE INDEX replay_endpoint ON replay (endpoint, id);
CREATE TABLE delivery (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	endpoint VARCHAR NOT NULL,
	kind VARCHAR NOT NULL,
	webhook_id VARCHAR NOT NULL,
	first_seq BIGINT,
	last_seq BIGINT,
	events INTEGER NOT NULL,
	at BIGINT NOT NULL,
	ok BOOLEAN NOT NULL,
	status INTEGER,
	ms INTEGER NOT NULL,
	error VARCHAR,
	answer VARCHAR
);
CREATE INDEX delivery_at ON delivery (at);
CREATE INDEX delivery_endpoint ON delivery (endpoint, id);
CREATE INDEX retry_created ON retry (created_at);
CREATE INDEX agent_session_expires ON agent_session (expires_at);
CREATE INDEX session_owner ON session (agent_id, status, type, created_at, id);
CREATE INDEX session_record ON session (external_mapping, status, created_at, id) WHERE external_mapping IS NOT NULL;
CREATE INDEX session_open_id ON session (id) WHERE status <> 'closed';
CREATE INDEX event_session ON event (session_id, seq);
CREATE INDEX event_ts ON event (ts, seq);
CREATE INDEX delivery_outcome ON delivery (endpoint, ok, id);
CREATE INDEX agent_session_agent ON agent_session (agent_id, sid);
CREATE TABLE signin_code (
	code_sha256 VARCHAR NOT NULL,
	provider VARCHAR NOT NULL,
	instance_url VARCHAR NOT NULL,
	receiver VARCHAR NOT NULL,
	agent_id INTEGER NOT NULL,
	token_sha256 VARCHAR NOT NULL,
	expires_at BIGINT NOT NULL,
	PRIMARY KEY (code_sha256)
);
CREATE INDEX signin_code_agent ON signin_code (agent_id, expires_at);
CREATE INDEX signin_code_expires ON signin_code (expires_at);
CREATE TABLE presence (
	participant_id VARCHAR NOT NULL,
	session_id VARCHAR NOT NULL,
	resume_sha256 VARCHAR NOT NULL,
	daemon VARCHAR NOT NULL,
	connection VARCHAR NOT NULL,
	gone_at BIGINT,
	PRIMARY KEY (participant_id),
	FOREIGN KEY(session_id) REFERENCES session (id) ON DELETE CASCADE,
	UNIQUE (resume_sha256)
);
CREATE INDEX ix_presence_session_id ON presence (session_id);
CREATE INDEX presence_daemon ON presence (daemon, participant_id);
CREATE INDEX presence_gone ON presence (gone_at, participant_id) WHERE gone_at IS NOT NULL;
CREATE TABLE lease (
	daemon VARCHAR NOT NULL,
	until BIGINT NOT NULL,
	PRIMARY KEY (daemon)
);
CREATE INDEX participant_present ON participant (session_id, joined_at, id) WHERE left_at IS NULL;
CREATE TABLE agent (
	id INTEGER NOT NULL,
	issuer VARCHAR NOT NULL,
	subject VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	email VARCHAR NOT NULL,
	roles VARCHAR NOT NULL,
	signed_in_at BIGINT,
	shut_out_at BIGINT,
	changed BIGINT NOT NULL,
	PRIMARY KEY (id)
);
CREATE UNIQUE INDEX agent_subject ON agent (issuer, subject) WHERE issuer <> '';
CREATE INDEX agent_changed ON agent (changed);
CREATE TABLE challenge_use (
	uuid VARCHAR NOT NULL,
	guessed_at BIGINT,
	kept_until BIGINT NOT NULL,
	PRIMARY KEY (uuid)
);
CREATE INDEX challenge_use_guessed ON challenge_use (guessed_at) WHERE guessed_at IS NOT NULL;
CREATE INDEX challenge_use_kept ON challenge_use (kept_until);
CREATE TABLE calendar_feed (
	agent_id INTEGER NOT NULL,
	secret_sha256 VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (agent_id),
	UNIQUE (secret_sha256)
);
CREATE INDEX session_remind ON session (remind_at, created_at, id) WHERE remind_at IS NOT NULL;
CREATE TABLE batch_retry (
	agent_id INTEGER NOT NULL,
	"key" VARCHAR NOT NULL,
	body_sha256 VARCHAR NOT NULL,
	session_ids JSON NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (agent_id, "key")
);
CREATE INDEX batch_retry_created ON batch_retry (created_at);
CREATE TABLE mail (
	session_id VARCHAR NOT NULL,
	position INTEGER NOT NULL,
	seq BIGINT NOT NULL,
	state VARCHAR NOT NULL,
	unanswered INTEGER NOT NULL,
	sent_seq BIGINT,
	at BIGINT NOT NULL,
	PRIMARY KEY (session_id, position),
	FOREIGN KEY(session_id) REFERENCES session (id) ON DELETE CASCADE
);
CREATE INDEX mail_failed ON mail (seq) WHERE state IN ('refused', 'unknown');
CREATE TABLE series (
	id VARCHAR NOT NULL,
	agent_id INTEGER NOT NULL,
	caller VARCHAR NOT NULL,
	definition VARCHAR NOT NULL,
	template VARCHAR NOT NULL,
	made_through VARCHAR NOT NULL,
	next_at BIGINT,
	ended_at BIGINT,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	version INTEGER NOT NULL,
	follows VARCHAR,
	idempotency_key VARCHAR,
	body_sha256 VARCHAR, entry VARCHAR,
	PRIMARY KEY (id)
);
CREATE INDEX series_next ON series (next_at, id) WHERE next_at IS NOT NULL;
CREATE INDEX series_agent ON series (agent_id, id);
CREATE UNIQUE INDEX series_key ON series (agent_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE occurrence (
	series_id VARCHAR NOT NULL,
	local_start VARCHAR NOT NULL,
	session_id VARCHAR NOT NULL,
	start_time BIGINT NOT NULL,
	PRIMARY KEY (series_id, local_start),
	FOREIGN KEY(series_id) REFERENCES series (id) ON DELETE CASCADE,
	FOREIGN KEY(session_id) REFERENCES session (id) ON DELETE CASCADE
);
CREATE INDEX ix_occurrence_session_id ON occurrence (session_id);
CREATE INDEX series_entry ON series (entry) WHERE entry IS NOT NULL AND ended_at IS NULL;
CREATE TABLE mail_count (
	agent_id INTEGER NOT NULL,
	since BIGINT NOT NULL,
	mails INTEGER NOT NULL,
	PRIMARY KEY (agent_id)
);
CREATE TABLE batch (
	id VARCHAR NOT NULL,
	kind VARCHAR NOT NULL,
	agent_id INTEGER NOT NULL,
	"key" VARCHAR,
	caller VARCHAR NOT NULL,
	session_ids JSON NOT NULL,
	starts JSON,
	pins JSON,
	remaining INTEGER NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX batch_agent ON batch (agent_id, "key");
CREATE TABLE batch_part (
	batch_id VARCHAR NOT NULL,
	number INTEGER NOT NULL,
	content VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (batch_id, number)
);
CREATE INDEX batch_part_created ON batch_part (created_at);
CREATE INDEX session_owner_start ON session (agent_id, status, type, start_time, created_at, id, updated_at, expires_at);
CREATE INDEX session_start ON session (status, type, start_time, created_at, id, updated_at, expires_at);
INSERT INTO alembic_version VALUES ('0020');
