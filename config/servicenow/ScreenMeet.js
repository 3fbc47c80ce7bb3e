/*
 * ScreenMeet: manages tminus sessions for ServiceNow records. A Script Include in strict ES5 that uses the scoped API only.
 * docs/servicenow.md explains how to install and call it.
 *
 *     var sm = new x_tminus.ScreenMeet();                  // x_tminus: the name of your application scope
 *     var result = sm.createSession('support', 'incident', sys_id, 'Incident INC0000005', 'Remote support', {record: true});
 *     if (result.success === false) { ... result.error.description ... }
 *
 * ERRORS. No method throws an exception, because a business rule that calls one must not prevent its record from being saved.
 * A failed call returns {success: false, error: {code, refcode, description, errors, retryable}} and writes one log line.
 *   code        HTTP status; 0 if no answer of tminus arrived, or nothing was sent
 *   refcode     tminus's number for the cause, or null
 *   errors      [{field, message}]: all errors of a refused request
 *   retryable   whether the same call may succeed later
 *
 * RETRIES. The script repeats a call once, at once, after a connection failure, 502, 503 or 504: the request or its answer
 * may have been lost, or another node may answer. That is safe for every call (see below). The script does not repeat a call
 * more often, because a scoped script cannot sleep, and a user may be waiting for a record to be saved. After 429, which asks
 * for a pause, it does not repeat the call at all. The longest wait is twice the timeout.
 *
 * REPEATED CALLS. A creation carries an Idempotency-Key: the SHA-256 of the user and of the request with all its arguments.
 * A rule that fires twice, at the same time or hours apart, therefore gets the same session twice: there is ONE OPEN SESSION
 * PER USER AND ARGUMENTS (record, label, preferences, start). The key contains no time, because two calls at the two sides of
 * a time boundary would create two sessions.
 *   If the returned session is closed, the caller needs a new one. The script adds the id of the closed session to the hash,
 *   and the result is the next key. Two such calls at the same time still create one session. The chain ends after MAX_CHAIN
 *   closed sessions.
 *   tminus stores a key for 24 hours. To use your own key for one call: sm.setIdempotencyKey(key).createSession(...).
 */
var ScreenMeet = Class.create();

ScreenMeet.prototype = {

    /** The prefix of the names of the system properties: the scope of the application. */
    PROPERTIES: 'x_tminus.',

    /** Time-out of one attempt, unless the property timeout_ms is set. ServiceNow ends a request after 30 s. */
    TIMEOUT_MS: 10000,

    /** Maximum closed sessions of one user with the same arguments within a day. More indicate a script in a loop. */
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
        // An empty text if it is missing, which tminus refuses. Without the field the session would start now.
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

    /** Set the key of the next creation. If the session of this key is closed, the call returns the closed session. */
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
        // JSON.stringify omits members with the value undefined.
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

    /** Send a request and return its answer as an object. Throws a failure unless that is a 200 with a JSON object. */
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
        var isReason = parsed && typeof parsed.description === 'string';
        var failure = this._failure(isReason ? parsed.description : answer.code
            ? answer.request + ' was answered with HTTP ' + answer.code + ', by something that is not tminus'
            : 'No answer to ' + answer.request + ': ' + (answer.problem || 'no reason given'));
        failure.code = answer.code;
        failure.refcode = isReason && parsed.refcode || null;
        failure.errors = isReason && parsed.errors || [];
        failure.retryable = answer.code === 0 || answer.code === 408 || answer.code === 429 || answer.code >= 500;
        throw failure;
    },

    /** Make one attempt. */
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
                // Without this, a sensor may take the answer from the queue before this script reads it.
                message.setEccParameter('skip_sensor', 'true');
            }
            var response = message.execute();
            answer.code = Number(response.getStatusCode()) || 0;
            answer.body = this._text(response.getBody());
            if (response.haveError()) {
                answer.problem = this._text(response.getErrorMessage());
            }
        } catch (e) {  // depending on the path, ServiceNow throws a connection failure or reports it as status 0
            answer.code = 0;
            answer.problem = this._text(e && e.message || e);
        }
        return answer;
    },

    /** Run a call. Convert an exception into an error object and a log line. */
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

    /** Remove the token from an error: a message may quote the headers of the request. */
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

    /** "System Administrator" -> "System A". Participants see this name; they need not know the agent's full name. */
    _shortName: function (name) {
        var words = name.trim().split(/\s+/);
        if (words.length < 2) {
            return words[0];
        }
        // A character outside the basic plane has two code units, which must stay together.
        return words[0] + ' ' + words[words.length - 1].match(/^(?:[\ud800-\udbff][\udc00-\udfff]|[\s\S])/)[0];
    },

    /** Sort the preferences, because the same preferences in another order must give the same key. */
    _sorted: function (prefs) {
        if (prefs === null || prefs === undefined) {
            return {};
        }
        if (typeof prefs !== 'object') {
            return prefs;  // tminus refuses it with a reason
        }
        var sorted = {};
        Object.keys(prefs).sort().forEach(function (name) {
            sorted[name] = prefs[name];
        });
        return sorted;
    },

    /** Convert a field of a GlideRecord, a Java string, null or undefined to a primitive string. */
    _text: function (value) {
        return value === null || value === undefined ? '' : String(value);
    },

    /** Encode as JSON in ASCII, which no charset conversion changes, without "$", because ServiceNow replaces "${...}". */
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
