// What the scenarios share: where Spillway is, who its visitors are, what a request must answer, and a summary for people.
import http from 'k6/http';
import exec from 'k6/execution';
import { check, fail, sleep } from 'k6';
import { SharedArray } from 'k6/data';

export const visitors = (__ENV.VISITORS || 'http://127.0.0.1:8080').replace(/\/$/, '');
export const api = (__ENV.API || 'http://127.0.0.1:8081').replace(/\/$/, '');

// A load belongs to a machine of your own: elsewhere only if somebody says so.
for (const address of [visitors, api]) {
  if (!/^https?:\/\/(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?$/.test(address) && __ENV.ELSEWHERE !== 'yes') {
    throw new Error(`${address} is not on this machine; ELSEWHERE=yes says that it is meant`);
  }
}

// The standalone keeps its token in its data directory.
function readToken() {
  if (__ENV.TOKEN) return __ENV.TOKEN;
  try {
    return open(`${__ENV.DATA || '../../data'}/admin-token`).trim();
  } catch (e) {
    throw new Error("no TOKEN, and none in the data directory: start 'make run' first, or say TOKEN=… or DATA=DIRECTORY");
  }
}
const token = readToken();

// User agents as often as they were seen, a line each: count, tab, user agent.
const agents = new SharedArray('agents', () => {
  const all = [];
  for (const line of open('../load/visitors/agents.tsv').split('\n')) {
    const tab = line.indexOf('\t');
    if (tab > 0) all.push({ upTo: Number(line.slice(0, tab)), agent: line.slice(tab + 1) });
  }
  for (let i = 1; i < all.length; i++) all[i].upTo += all[i - 1].upTo;
  return all;
});

function agent() {
  const x = Math.random() * agents[agents.length - 1].upTo;
  let low = 0;
  let high = agents.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (agents[middle].upTo > x) high = middle;
    else low = middle + 1;
  }
  return agents[low].agent;
}

// 198.18.0.0/15 is set aside for measurements (RFC 2544): nobody's address. The redirector believes it from the loopback.
export function address() {
  return `198.${18 + Math.floor(Math.random() * 2)}.${Math.floor(Math.random() * 256)}.${Math.floor(Math.random() * 256)}`;
}

function visit(path, name, wanted, more) {
  const { method, ...headers } = more || {};
  const response = http.request(method || 'GET', visitors + path, null, {
    redirects: 0,
    responseCallback: http.expectedStatuses(wanted),
    headers: { 'User-Agent': agent(), 'X-Forwarded-For': address(), 'Accept-Language': 'en-GB,en;q=0.8', ...headers },
    tags: { name },
  });
  check(response, { [`${name} is answered`]: (r) => r.status === wanted }, { name });
  return response;
}

// click follows a link as a browser does, but not to its end. more: further headers, and the method.
export const click = (code, more) => visit(`/l/${code}`, 'click', 302, more);

// view opens a profile's page.
export const view = (handle, more) => visit(`/${handle}`, 'page', 200, more);

export function call(method, path, body, name) {
  const response = http.request(method, api + path, body ? JSON.stringify(body) : null, {
    headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
    tags: { name: name || 'api' },
  });
  if (response.status >= 300) fail(`${method} ${path}: ${response.status} ${response.body}`);
  return response.json();
}

// profile makes a profile of its own for a run, with so many links.
export function profile(links) {
  const handle = `k6-${Date.now().toString(36)}`;
  const made = call('POST', '/v1/profiles', { handle, title: 'Load' });
  const codes = [];
  for (let i = 0; i < links; i++) {
    codes.push(call('POST', `/v1/profiles/${made.id}/links`, { title: `Link ${i}`, url: `https://example.com/${handle}/${i}` }).code);
  }
  return { id: made.id, handle, codes };
}

// insights asks for a profile's numbers as its dashboard does.
export const insights = (id, query, name) => call('GET', `/v1/profiles/${id}/insights${query || ''}`, null, name || 'insights');

const classes = ['unknown', 'person', 'bot', 'preview', 'prefetch', 'head', 'scanner', 'owner', 'test'].join(',');

// counted waits until views and clicks of all classes are as many as were answered, and fails if they do not become so, or become more.
export function counted(id, views, clicks) {
  let seen;
  for (let i = 0; i < 100; i++) {
    seen = insights(id, `?classes=${classes}`, 'counted').lifetime;
    if (seen.views === views && seen.clicks === clicks) return;
    sleep(0.1);
  }
  exec.test.fail(`answered ${views} views and ${clicks} clicks, counted ${seen.views} and ${seen.clicks}`);
}

// thresholds that every scenario has: everything is answered as it should be, and every visitor who was to come came.
export const thresholds = (more) => ({
  checks: ['rate==1'],
  http_req_failed: ['rate==0'],
  dropped_iterations: ['count==0'],
  'http_req_duration{name:click}': ['p(99)<250'],
  ...more,
});

export const summaryTrendStats = ['count', 'med', 'p(90)', 'p(99)', 'p(99.9)', 'max'];

// summary is a page of figures, then the thresholds, what was missed first. SUMMARY=FILE keeps all of it as JSON.
export function summary(data) {
  const rows = [['', 'requests', 'median', 'p90', 'p99', 'p99.9', 'longest']];
  const ms = (v) => (v === undefined ? '–' : `${v.toFixed(v < 10 ? 2 : 0)} ms`);
  for (const name of ['click', 'page', 'insights']) {
    const metric = data.metrics[`http_req_duration{name:${name}}`];
    if (!metric || !metric.values.count) continue;
    const v = metric.values;
    rows.push([name, String(v.count), ms(v.med), ms(v['p(90)']), ms(v['p(99)']), ms(v['p(99.9)']), ms(v.max)]);
  }
  const widths = rows[0].map((_, i) => Math.max(...rows.map((r) => r[i].length)));
  let text = `\n${rows.map((r) => '  ' + r.map((c, i) => (i ? c.padStart(widths[i]) : c.padEnd(widths[i]))).join('  ')).join('\n')}\n\n`;
  const value = (name, field) => ((data.metrics[name] || { values: {} }).values[field]) || 0;
  text += `  ${value('http_reqs', 'count')} requests in ${(data.state.testRunDurationMs / 1000).toFixed(0)} s, `;
  text += `${value('http_reqs', 'rate').toFixed(0)}/s; ${(100 * value('http_req_failed', 'rate')).toFixed(3)} % failed; ${value('dropped_iterations', 'count')} visitors could not come\n`;
  const judged = [];
  for (const [name, metric] of Object.entries(data.metrics)) {
    for (const [threshold, result] of Object.entries(metric.thresholds || {})) judged.push([result.ok, `${name} ${threshold}`]);
  }
  judged.sort((a, b) => Number(a[0]) - Number(b[0]));
  text += judged.map(([ok, what]) => `  ${ok ? 'met   ' : 'MISSED'}  ${what}`).join('\n') + '\n\n';
  const out = { stdout: text };
  if (__ENV.SUMMARY) out[__ENV.SUMMARY] = JSON.stringify(data, null, 2);
  return out;
}
