'use strict';
/*
 * Runs config/servicenow/ScreenMeet.js as it is, outside ServiceNow, against a real daemon.
 *
 * Reads orders from standard input, one a line, and answers each with a line, both in JSON:
 *   {"base_url": ..., "token": ..., "calls": [...]}    a list, one entry a call: {result, log, requests, thrown}
 *   {"check": "var a = ..."}                           a list of what in this source is not ES5
 *
 * A call is one of
 *   {"method": "createSession", "args": [...]}             on an object of its own
 *   {"script": "var sm = new x_prois_sm.ScreenMeet(); ..."}    its result is what it leaves in `result`
 * and may have
 *   "properties": {"x_tminus.token": ...}    over base_url and token
 *   "user": "System Administrator", "userId": "6816..."
 *   "key": "..."                             for setIdempotencyKey
 *   "network": "throw"                       execute() throws when there is no answer, instead of reporting status 0
 * An argument {"$field": "text"} becomes an object with that text, as a field of a GlideRecord is.
 *
 * Stricter than ServiceNow where that finds mistakes: only what ES5 has exists (a call of String.prototype.includes fails
 * here, as it may there), gs has only scoped methods, and every text that comes from the platform is an object, not a
 * primitive, as Java strings are in Rhino. No npm packages; Node 18 or later.
 */
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');
const vm = require('node:vm');
const { MessageChannel, Worker, receiveMessageOnPort } = require('node:worker_threads');

const SOURCE = path.join(__dirname, '..', '..', 'config', 'servicenow', 'ScreenMeet.js');

// --- ES5: the syntax --------------------------------------------------------------------------------------------------

/** Comments, templates, texts, numbers, words, operators; longest first. Regular expressions are told apart in tokens(). */
const TOKEN = new RegExp([
  /(?<comment>\/\/[^\n]*|\/\*[^]*?\*\/)/, /(?<template>`)/, /(?<text>'(?:\\[^]|[^'\\\n])*'|"(?:\\[^]|[^"\\\n])*")/,
  /(?<number>\.?\d[\w.]*)/, /(?<word>[\p{L}$_][\p{L}\p{N}$_]*)/u, /(?<space>\s+)/,
  /(?<operator>>>>=|\.\.\.|===|!==|>>>|<<=|>>=|\*\*=?|\?\?=?|&&=?|\|\|=?|\?\.(?!\d)|=>|[-+*%&|^!=<>]=|\+\+|--|<<|>>|[^])/,
].map((part) => part.source).join('|'), 'uy');
const REGEXP = /\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/(\w*)/y;

const NOT_ES5 = {
  word: new Set(['let', 'const', 'class', 'extends', 'super', 'import', 'export', 'yield', 'async', 'await', 'of']),
  operator: new Set(['=>', '...', '**', '**=', '?.', '??', '??=', '&&=', '||=', '#', '@']),
};

function tokens(source) {
  const found = [];
  let line = 1;
  for (let at = 0; at < source.length;) {
    const last = found[found.length - 1];
    const operandCame = last && (['text', 'number', 'regexp'].includes(last.kind) || [')', ']', '}'].includes(last.text) ||
      (last.kind === 'word' && !['return', 'typeof', 'case', 'in', 'delete', 'void', 'throw', 'new', 'else', 'do'].includes(last.text)));
    REGEXP.lastIndex = TOKEN.lastIndex = at;
    const regexp = operandCame ? null : REGEXP.exec(source);
    const match = regexp || TOKEN.exec(source);
    const kind = regexp ? 'regexp' : Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    if (kind !== 'comment' && kind !== 'space') found.push({ kind, text: match[0], flags: regexp && match[1], line });
    line += match[0].split('\n').length - 1;
    at += match[0].length;
  }
  return found;
}

/** What in this source an ES5 parser would refuse. Node accepts far more than Rhino, so parsing it here would prove little. */
function notES5(source) {
  const wrong = [];
  const all = tokens(source);
  const open = [];
  all.forEach((token, i) => {
    const { kind, text } = token;
    const before = (n) => (all[i - n] || { text: '' }).text;
    const after = (all[i + 1] || { text: '' }).text;
    const complain = (what) => wrong.push(`line ${token.line}: ${what}`);
    const isName = before(1) === '.' || after === ':';
    if (kind === 'template') complain('template');
    if (kind === 'word' && NOT_ES5.word.has(text) && !isName) complain(text);
    if (kind === 'operator' && NOT_ES5.operator.has(text)) complain(text);
    if (kind === 'number' && !/^(0[xX][\da-fA-F]+|0|[1-9]\d*|(\d+\.\d*|\.\d+|\d+)([eE]\d*)?)$/.test(text)) complain(`number ${text}`);
    if (kind === 'regexp' && !/^[gim]*$/.test(token.flags)) complain(`regular expression flags ${token.flags}`);
    if (kind === 'regexp' && /\(\?<|\\[pP]\{/.test(text)) complain('regular expression syntax');
    if (kind === 'text' && text.includes('\\u{')) complain('\\u{...}');
    if ([')', ']', '}'].includes(text) && before(1) === ',') complain('trailing comma');
    if ((text === '{' || text === '[') && before(1) === 'var') complain('destructuring');
    if (kind === 'word' && ['{', ','].includes(before(1)) && after === '}') complain(`shorthand property ${text}`);
    if (text === '[' && ['{', ','].includes(before(1)) && open.length && open[open.length - 1].text === '{') complain('computed property');
    if (['(', '[', '{'].includes(text)) open.push({ text, i });
    if ([')', ']', '}'].includes(text)) {
      const from = open.pop();
      if (!from) return complain(`${text} without its opening`);
      const isFunction = text === ')' && [1, 2].some((n) => (all[from.i - n] || {}).text === 'function');
      if (isFunction && all.slice(from.i + 1, i).some((inner) => inner.kind !== 'word' && inner.text !== ',')) complain('parameters');
      const head = (all[from.i - 1] || {}).text;
      if (text === ')' && after === '{' && !isFunction && !['if', 'for', 'while', 'switch', 'catch', 'with'].includes(head)) {
        const accessor = (all[from.i - 2] || {}).text;
        if (accessor !== 'get' && accessor !== 'set') complain(`shorthand method ${head}`);
      }
    }
    if (text === 'catch' && after === '{') complain('catch without its parameter');
  });
  return wrong;
}

// --- ES5: what there is at run time -----------------------------------------------------------------------------------

const ES5 = {
  globals: `Object Function Array String Boolean Number Date RegExp Error EvalError RangeError ReferenceError SyntaxError
    TypeError URIError Math JSON NaN Infinity undefined parseInt parseFloat isNaN isFinite decodeURI decodeURIComponent
    encodeURI encodeURIComponent escape unescape eval globalThis`,
  'Object.prototype': `constructor toString toLocaleString valueOf hasOwnProperty isPrototypeOf propertyIsEnumerable __proto__
    __defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__`,
  Object: `length name prototype getPrototypeOf getOwnPropertyDescriptor getOwnPropertyNames create defineProperty
    defineProperties seal freeze preventExtensions isSealed isFrozen isExtensible keys`,
  'Array.prototype': `length constructor toString toLocaleString concat join pop push reverse shift slice sort splice unshift
    indexOf lastIndexOf every some forEach map filter reduce reduceRight`,
  Array: 'length name prototype isArray',
  'String.prototype': `length constructor toString valueOf charAt charCodeAt concat indexOf lastIndexOf localeCompare match
    replace search slice split substring substr toLowerCase toLocaleLowerCase toUpperCase toLocaleUpperCase trim`,
  String: 'length name prototype fromCharCode',
  Number: 'length name prototype MAX_VALUE MIN_VALUE NaN NEGATIVE_INFINITY POSITIVE_INFINITY',
  Math: 'E LN10 LN2 LOG2E LOG10E PI SQRT1_2 SQRT2 abs acos asin atan atan2 ceil cos exp floor log max min pow random round sin sqrt tan',
};

const STRIP = `(function (allowed) {
  var targets = {globals: this, 'Object.prototype': Object.prototype, Object: Object, 'Array.prototype': Array.prototype,
                 Array: Array, 'String.prototype': String.prototype, String: String, Number: Number, Math: Math};
  Object.keys(allowed).forEach(function (where) {
    var names = allowed[where].split(/\\s+/);
    Object.getOwnPropertyNames(targets[where]).forEach(function (name) {
      if (names.indexOf(name) < 0) { delete targets[where][name]; }
    });
  });
})`;

// --- ServiceNow -------------------------------------------------------------------------------------------------------

/** HTTP on a thread of its own: scripts in ServiceNow wait for the answer, and Node can do that only for another thread. */
const EXCHANGES = `
  const { workerData } = require('node:worker_threads');
  const { port, answered } = workerData;
  port.on('message', (ask) => {
    const tell = (answer) => {
      port.postMessage(answer);
      Atomics.store(answered, 0, 1);
      Atomics.notify(answered, 0);
    };
    const { request } = require(ask.url.startsWith('https:') ? 'node:https' : 'node:http');
    const sent = request(ask.url, {method: ask.verb, headers: ask.headers, agent: false}, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', (error) => tell({problem: error.message}));
      response.on('end', () => tell({code: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString('utf8')}));
    });
    sent.setTimeout(ask.timeout, () => sent.destroy(new Error('Read timed out')));
    sent.on('error', (error) => tell({problem: error.message || error.code}));
    sent.end(ask.body);
  });
`;

const answered = new Int32Array(new SharedArrayBuffer(4));
const { port1: exchanges, port2: port } = new MessageChannel();
new Worker(EXCHANGES, { eval: true, workerData: { port, answered }, transferList: [port] }).unref();

/** One HTTP exchange; returns when it is over. */
function exchange(ask) {
  Atomics.store(answered, 0, 0);
  exchanges.postMessage(ask);
  Atomics.wait(answered, 0, 0);
  return receiveMessageOnPort(exchanges).message;
}

function serviceNow(order, call, outcome) {
  const properties = {
    'x_tminus.base_url': order.base_url,
    'x_tminus.token': order.token,
    ...call.properties,
  };
  const context = vm.createContext({});
  vm.runInContext(STRIP, context)(ES5);
  const JavaString = vm.runInContext('String', context);
  const java = (text) => (text === undefined || text === null ? null : new JavaString(text));
  const log = (level) => (text) => { outcome.log.push({ level, text: String(text) }); };

  /** Only what is used, and a mistake in its use is an error: here nothing is converted silently. */
  function RESTMessageV2() {
    const message = { headers: { 'User-Agent': 'Jakarta Commons-HttpClient/3.1' }, timeout: 30000, mid: null };
    const text = (value) => {
      if (typeof value !== 'string') throw new TypeError(`a primitive string is expected, not ${typeof value}`);
      return value;
    };
    this.setHttpMethod = (verb) => { message.verb = text(verb); };
    this.setEndpoint = (url) => { message.url = text(url); };
    this.setRequestHeader = (name, value) => { message.headers[text(name)] = text(value); };
    this.setRequestBody = (body) => { message.body = text(body).replace(/\$\{[^}]*\}/g, ''); };  // forced variable substitution
    this.setHttpTimeout = (ms) => { message.timeout = ms; };
    this.setMIDServer = (name) => { message.mid = text(name); };
    this.setEccParameter = (name, value) => { message[text(name)] = text(value); };
    this.execute = () => {
      const headers = { ...message.headers, 'Content-Length': Buffer.byteLength(message.body) };
      const answer = exchange({ ...message, headers });
      const token = String(properties['x_tminus.token']);
      outcome.requests.push({
        ...message,
        headers: { ...message.headers, 'Session-id': message.headers['Session-id'] === token ? '(token)' : '(not the token)' },
        code: answer.code || 0,
        replayed: Boolean(answer.headers && answer.headers['idempotency-replayed'] === 'true'),
      });
      if (answer.problem !== undefined && call.network === 'throw') throw new Error(answer.problem);
      return {
        getStatusCode: () => answer.code || 0,
        getBody: () => java(answer.body),
        haveError: () => !answer.code || answer.code >= 400,
        getErrorMessage: () => java(answer.problem || `HTTP ${answer.code}`),
      };
    };
  }

  Object.assign(context, {
    Class: { create: vm.runInContext('(function () { return function () { this.initialize.apply(this, arguments); }; })', context) },
    gs: {
      getProperty: (name, otherwise) => java(properties[name] === undefined ? otherwise : properties[name]),
      getUserDisplayName: () => java(call.user === undefined ? 'System Administrator' : call.user),
      getUserID: () => java(call.userId || '6816f79cc0a8016401c5a33be04be441'),
      error: log('error'), warn: log('warn'), info: log('info'),
    },
    GlideDigest: function GlideDigest() {
      this.getSHA256Hex = (text) => java(crypto.createHash('sha256').update(text, 'ascii').digest('hex').toUpperCase());
    },
    sn_ws: { RESTMessageV2 },
  });
  return context;
}

function run(order, call) {
  const outcome = { result: null, log: [], requests: [], thrown: null };
  const context = serviceNow(order, call, outcome);
  try {
    const names = Object.keys(context);
    vm.runInContext(source, context, { filename: SOURCE });
    context.x_prois_sm = { ScreenMeet: context.ScreenMeet };
    if (call.script) {
      vm.runInContext(call.script, context, { filename: 'script' });
    } else {
      const sm = new context.ScreenMeet();
      if (call.key) sm.setIdempotencyKey(call.key);
      const field = (arg) => (arg && arg.$field !== undefined ? { toString: () => arg.$field } : arg);
      context.result = sm[call.method](...call.args.map(field));
    }
    outcome.result = context.result;
    const leaked = call.script ? [] : Object.keys(context).filter((name) =>
      !names.concat('ScreenMeet', 'x_prois_sm', 'result').includes(name));
    if (leaked.length) throw new Error(`global variables were made: ${leaked}`);
  } catch (error) {
    outcome.thrown = String(error && error.stack || error);
  }
  return outcome;
}

// --- the command ------------------------------------------------------------------------------------------------------

const source = fs.readFileSync(SOURCE, 'utf8');

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const order = JSON.parse(line);
  const answer = order.check === undefined ? order.calls.map((call) => run(order, call)) : notES5(order.check);
  process.stdout.write(JSON.stringify(answer) + '\n');
}).on('close', () => process.exit());
