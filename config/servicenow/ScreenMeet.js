/*
 * ScreenMeet: sessions for ServiceNow records, kept by tminus. A Script Include; strict ES5, scoped API only.
 * How to install and call it: docs/servicenow.md.
 *
 *     var sm = new x_tminus.ScreenMeet();                  // x_tminus: the name of your application scope
 *     var result = sm.createSession('support', 'incident', sys_id, 'Incident INC0000005', 'Remote support', {record: true});
 *     if (result.success === false) { ... result.error.description ... }
 *
 * FAILURE. Nothing is ever thrown: a business rule that calls this must not abort the save of its record. What failed
 * comes back as {success: false, error: {code, refcode, description, errors, retryable}} and is logged in one line.
 *   code        HTTP status; 0 when no answer of tminus arrived, or nothing was sent
 *   refcode     tminus's own number for the cause, or null
 *   errors      [{field, message}]: every fault of a refused request
 *   retryable   whether the same call may succeed later, unchanged
 *
 * RETRY. One more try, at once, when the connection failed or a 502, 503 or 504 came back: the request or its answer may
 * have been lost, or another node may answer. Every call is safe to repeat (see below). No more than one, because a scoped
 * script cannot sleep: further tries would meet the same trouble in the same second, and somebody is waiting for a save.
 * For the same reason none after 429, which asks for a pause. Longest wait: twice the timeout.
 *
 * ONE SESSION, NOT TWO. A creation carries an Idempotency-Key: the SHA-256 of the user and of the request, so of every
 * argument. A rule that fires twice, at the same time or hours apart, gets the same session twice. Meaning: ONE OPEN SESSION
 * PER USER AND ARGUMENTS (record, label, preferences, start). No clock is in the key: a time window has an edge, and two
 * calls on either side of it would make two sessions.
 *   If the session that comes back is closed, another one is wanted: the closed one's id is hashed in, and that is the next
 *   key. Still deterministic, so two such calls at once make one session too; the chain ends after MAX_CHAIN closed ones.
 *   tminus remembers a key for 24 hours. A key of your own, for one call: sm.setIdempotencyKey(key).createSession(...).
 */
var ScreenMeet = Class.create();

ScreenMeet.prototype = {

    /** What the names of the system properties begin with: the scope of the application that they belong to. */
    PROPERTIES: 'x_tminus.',

    /** For one try, unless the property timeout_ms says otherwise. ServiceNow itself gives up after 30 s. */
    TIMEOUT_MS: 10000,

    /** So many closed sessions of one user with the same arguments in a day are a script gone wrong, not a wish. */
    MAX_CHAIN: 20,

    initialize: function () {
        this._callersKey = '';
    },

    createSession: function (type, parent_object_table, parent_object_sys_id, parent_object_display_name,
                             screenmeet_session_name, agent_prefs) {
        return this._create('createSession', undefined, type, parent_object_table, parent_object_sys_id,
            parent_object_display_name, screenmeet_session_name, agent_prefs);
    },

    scheduleSession: function (startTime, type, parent_object_table, parent_object_sys_id, parent_object_display_name,
                               screenmeet_session_name, agent_prefs) {
        // Text even when it is missing: tminus then refuses it. Left out, it would mean "now".
        return this._create('scheduleSession', this._text(startTime), type, parent_object_table, parent_object_sys_id,
            parent_object_display_name, screenmeet_session_name, agent_prefs);
    },

    rescheduleSession: function (ScreenMeetSessionId, startTime) {
        var self = this;
        return this._safely('rescheduleSession', function () {
            return self._call('PUT', self._path(ScreenMeetSessionId), {startTime: self._text(startTime)});
        });
    },

    closeSession: function (ScreenMeetSessionId) {
        var self = this;
        return this._safely('closeSession', function () {
            return self._call('DELETE', self._path(ScreenMeetSessionId), {});
        });
    },

    /** The key of the next creation, instead of the computed one. If its session is closed, that is what comes back. */
    setIdempotencyKey: function (key) {
        this._callersKey = this._text(key);
        return this;
    },

    _create: function (method, startTime, type, table, sysId, displayName, label, prefs) {
        var self = this;
        var key = this._callersKey;
        this._callersKey = '';
        return this._safely(method, function () {
            var session = self._newSession(startTime, type, table, sysId, displayName, label, prefs);
            if (key) {
                return self._call('POST', '/supportsessions', session, key);
            }
            var seed = self._text(gs.getUserID()) + '\n' + self._json(session);
            for (var link = 0; link < self.MAX_CHAIN; link++) {
                key = self._text(new GlideDigest().getSHA256Hex(seed));
                var answer = self._call('POST', '/supportsessions', session, key);
                if (answer.status !== 'closed') {
                    return answer;
                }
                seed += '\n' + answer.id;
            }
            throw self._failure('The last ' + self.MAX_CHAIN + ' sessions with these very arguments, all made within 24 hours, '
                + 'are closed: if one more is wanted, give it a key of its own with setIdempotencyKey');
        });
    },

    _newSession: function (startTime, type, table, sysId, displayName, label, prefs) {
        // Keys with the value undefined are left out of the JSON.
        var session = {
            type: this._text(type),
            label: this._text(label),
            userDescription: this._shortName(this._text(gs.getUserDisplayName())) || undefined,
            agentPrefs: this._sorted(prefs),
            startTime: startTime
        };
        table = this._text(table);
        sysId = this._text(sysId);
        if (table && sysId) {
            session.externalMapping = table + '.' + sysId;
            session.parentObject = {
                id: sysId,
                app: 'snow',
                type: table,
                name: this._text(displayName),
                sync: true,
                provider: 'snow-universal'
            };
        } else if (table || sysId) {
            gs.warn('tminus: the session is tied to no record: ' + (table ? 'its sys_id' : 'its table') + ' was not given');
        }
        return session;
    },

    /** The answer to a request, as an object. Anything but a 200 with a JSON object in it is thrown, for _safely to catch. */
    _call: function (verb, path, body, key) {
        var answer = this._send(verb, path, body, key);
        if (answer.code === 0 || answer.code === 502 || answer.code === 503 || answer.code === 504) {
            answer = this._send(verb, path, body, key);
        }
        var parsed = this._parse(answer.body);
        if (answer.code === 200 && parsed) {
            return parsed;
        }
        if (answer.code === 200) {
            throw this._failure('The answer to ' + answer.request + ' is not a JSON object: is base_url the one of tminus?');
        }
        var told = parsed && typeof parsed.description === 'string';
        var failure = this._failure(told ? parsed.description : answer.code
            ? answer.request + ' was answered with HTTP ' + answer.code + ', by something that is not tminus'
            : 'No answer to ' + answer.request + ': ' + (answer.problem || 'no reason given'));
        failure.code = answer.code;
        failure.refcode = told && parsed.refcode || null;
        failure.errors = told && parsed.errors || [];
        failure.retryable = answer.code === 0 || answer.code === 408 || answer.code === 429 || answer.code >= 500;
        throw failure;
    },

    /** One try. */
    _send: function (verb, path, body, key) {
        var url = this._required('base_url').replace(/\/+$/, '') + path;
        var token = this._required('token');
        var midServer = this._property('mid_server');
        var answer = {request: verb + ' ' + url, code: 0, body: '', problem: ''};
        try {
            var message = new sn_ws.RESTMessageV2();
            message.setHttpMethod(verb);
            message.setEndpoint(url);
            message.setRequestHeader('Content-Type', 'application/json');
            message.setRequestHeader('Accept', 'application/json');
            message.setRequestHeader('Session-id', token);
            message.setRequestHeader('client-app', 'service-now-backend');
            if (key) {
                message.setRequestHeader('Idempotency-Key', key);
            }
            message.setRequestBody(this._json(body));
            message.setHttpTimeout(Number(this._property('timeout_ms')) || this.TIMEOUT_MS);
            if (midServer) {
                message.setMIDServer(midServer);
                // Otherwise a sensor may take the answer out of the queue before it is read here.
                message.setEccParameter('skip_sensor', 'true');
            }
            var response = message.execute();
            answer.code = Number(response.getStatusCode()) || 0;
            answer.body = this._text(response.getBody());
            if (response.haveError()) {
                answer.problem = this._text(response.getErrorMessage());
            }
        } catch (e) {  // a refused or timed out connection is thrown on some ways out, and reported as status 0 on others
            answer.code = 0;
            answer.problem = this._text(e && e.message || e);
        }
        return answer;
    },

    /** Runs a call's work; makes an object and a line in the log of whatever it throws. */
    _safely: function (method, work) {
        try {
            return work();
        } catch (e) {
            var error = e && e.isFailure ? e : this._failure(this._text(e && e.message || e));
            delete error.isFailure;
            error = this._withoutToken(error);
            gs.error(('tminus: ' + method + ' failed: ' + (error.code ? 'HTTP ' + error.code + ': ' : '') + error.description
                + (error.refcode ? ' (' + error.refcode + ')' : '')).replace(/\s+/g, ' '));
            return {success: false, error: error};
        }
    },

    _failure: function (description) {
        return {code: 0, refcode: null, description: description, errors: [], retryable: false, isFailure: true};
    },

    /** Whatever wrote the message, it may have quoted the request's headers. */
    _withoutToken: function (error) {
        var token = this._property('token');
        return token ? JSON.parse(JSON.stringify(error).split(token).join('(token)')) : error;
    },

    _path: function (id) {
        id = this._text(id);
        if (!id) {
            throw this._failure('ScreenMeetSessionId is missing');
        }
        return '/supportsession/' + encodeURIComponent(id);
    },

    _required: function (name) {
        var value = this._property(name);
        if (!value) {
            throw this._failure('The system property ' + this.PROPERTIES + name + ' is not set');
        }
        return value;
    },

    _property: function (name) {
        return this._text(gs.getProperty(this.PROPERTIES + name)).trim();
    },

    /** "System Administrator" -> "System A": whoever joins sees it, and need not know an agent's full name. */
    _shortName: function (name) {
        var words = name.trim().split(/\s+/);
        if (words.length < 2) {
            return words[0];
        }
        // A letter outside the basic plane is two units, which must not be parted.
        return words[0] + ' ' + words[words.length - 1].match(/^(?:[\ud800-\udbff][\udc00-\udfff]|[\s\S])/)[0];
    },

    /** The preferences in one order, however the caller wrote them: the same wish must give the same key. */
    _sorted: function (prefs) {
        if (prefs === null || prefs === undefined) {
            return {};
        }
        if (typeof prefs !== 'object') {
            return prefs;  // tminus says what is wrong with it
        }
        var sorted = {};
        Object.keys(prefs).sort().forEach(function (name) {
            sorted[name] = prefs[name];
        });
        return sorted;
    },

    /** A primitive string of what may be a field of a GlideRecord, a Java string, or nothing. */
    _text: function (value) {
        return value === null || value === undefined ? '' : String(value);
    },

    /** In plain ASCII, for no charset on the way to alter; and without "$", for ServiceNow not to replace "${...}" in it. */
    _json: function (value) {
        return JSON.stringify(value).replace(/[^\x20-\x7e]|\$/g, function (unit) {
            return '\\u' + ('000' + unit.charCodeAt(0).toString(16)).slice(-4);
        });
    },

    _parse: function (text) {
        try {
            var value = JSON.parse(text);
            return Object.prototype.toString.call(value) === '[object Object]' ? value : null;
        } catch (e) {
            return null;
        }
    },

    type: 'ScreenMeet'
};
