// What the scenarios share: where Spillway is, who its visitors are, what a request must answer, and a summary for people.
import http from 'k6/http';
import { check, fail, sleep } from 'k6';
import { SharedArray } from 'k6/data';
import { Counter, Gauge } from 'k6/metrics';

export const visitors = (__ENV.VISITORS || 'http://127.0.0.1:8080').replace(/\/$/, '');
export const api = (__ENV.API || 'http://127.0.0.1:8081').replace(/\/$/, '');

// A load belongs to a machine of your own: elsewhere only if somebody says so.
for (const address of [visitors, api]) {
  if (!/^https?:\/\/(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?$/.test(address) && __ENV.ELSEWHERE !== 'yes') {
    throw new Error(`${address} is not on this machine; ELSEWHERE=yes says that it is meant`);
  }
}

// seconds of a duration as k6 writes it (20s, 5m, 1h30m), or of a plain number.
export function seconds(duration) {
  const parts = [...String(duration).matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|$)/g)];
  if (parts.length === 0) throw new Error(`${duration} is no duration: write it as 20s, 5m or 1h30m`);
  return parts.reduce((sum, [, n, unit]) => sum + Number(n) * { ms: 0.001, s: 1, m: 60, h: 3600, '': 1 }[unit], 0);
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

// What was answered and not counted: each answer adds one, and what Spillway counted is taken off at the end. Zero is what was promised.
const uncounted = { click: new Counter('uncounted_clicks'), page: new Counter('uncounted_views') };
const numbers = { clicks: new Gauge('counted_clicks'), views: new Gauge('counted_views'), people: new Gauge('counted_clicks_of_people') };

function visit(path, name, wanted, more) {
  const { method, ...headers } = more || {};
  const response = http.request(method || 'GET', visitors + path, null, {
    redirects: 0,
    responseCallback: http.expectedStatuses(wanted),
    headers: { 'User-Agent': agent(), 'X-Forwarded-For': address(), 'Accept-Language': 'en-GB,en;q=0.8', ...headers },
    tags: { name },
  });
  if (check(response, { [`${name} is answered`]: (r) => r.status === wanted }, { name })) uncounted[name].add(1);
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

// counted is every scenario's teardown: it waits until Spillway says that its numbers are complete up to now, 50 s at most, and takes what it
// counted of all classes off what was answered. While the database is away the API says so, which is no failure of the run.
export function counted(p) {
  const end = Date.now();
  let seen;
  while (Date.now() < end + 50000 && !(seen && Date.parse(seen.complete_through) >= end)) {
    if (seen) sleep(0.2);
    const response = http.get(`${api}/v1/profiles/${p.id}/insights?classes=${classes}`, {
      headers: { Authorization: `Bearer ${token}` },
      responseCallback: http.expectedStatuses(200, 503),
      tags: { name: 'counted' },
      timeout: '20s',
    });
    if (response.status === 200) seen = response.json();
    else sleep(1);
  }
  if (!seen) fail('Spillway did not say what it counted');
  uncounted.click.add(-seen.lifetime.clicks);
  uncounted.page.add(-seen.lifetime.views);
  numbers.clicks.add(seen.lifetime.clicks);
  numbers.views.add(seen.lifetime.views);
  numbers.people.add((seen.by_class.person || { clicks: 0 }).clicks);
}

// thresholds that every scenario has: everything is answered as it should be, every visitor who was to come came, and what was answered is
// counted, no more and no less.
export const thresholds = (more) => ({
  checks: ['rate==1'],
  http_req_failed: ['rate==0'],
  dropped_iterations: ['count==0'],
  uncounted_clicks: ['count==0'],
  uncounted_views: ['count==0'],
  'http_req_duration{name:click}': ['p(99)<250'],
  ...more,
});

// explained is what a missed threshold means.
const explained = {
  checks: 'not everything was answered as it should be',
  http_req_failed: 'requests were refused, or answered otherwise than they should be',
  dropped_iterations: 'visitors could not come, because those before them were still waiting: the times above look better than they were',
  uncounted_clicks: (was) => (was > 0 ? 'clicks were answered and not counted' : 'clicks were counted of which k6 heard no answer: somebody else visited, too'),
  uncounted_views: (was) => (was > 0 ? 'views were answered and not counted' : 'views were counted of which k6 heard no answer: somebody else visited, too'),
  counted_clicks_of_people: 'fetchers were taken for people',
  http_req_duration: 'answers took too long',
};

export const summaryTrendStats = ['count', 'med', 'p(90)', 'p(99)', 'p(99.9)', 'max'];

const thousands = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ' ');

// summary returns what k6 calls at the end: it writes what was done, a page of figures, then the thresholds, what was missed first. more adds
// a line. SUMMARY=FILE keeps all figures as JSON.
export const summary = (title, more) => (data) => {
  const value = (name, field) => ((data.metrics[name] || { values: {} }).values[field]) || 0;
  if (!value('iterations', 'count')) {
    return { stdout: `\n  ${title}\n\n  Nobody was sent: what k6 says below is why. Nothing was judged.\n\n` };
  }
  const rows = [['', 'requests', 'median', 'p90', 'p99', 'p99.9', 'longest']];
  const ms = (v) => (v === undefined ? '–' : `${v.toFixed(v < 10 ? 2 : 0)} ms`);
  for (const name of ['click', 'page', 'insights']) {
    const metric = data.metrics[`http_req_duration{name:${name}}`];
    if (!metric || !metric.values.count) continue;
    const v = metric.values;
    rows.push([name, thousands(v.count), ms(v.med), ms(v['p(90)']), ms(v['p(99)']), ms(v['p(99.9)']), ms(v.max)]);
  }
  const widths = rows[0].map((_, i) => Math.max(...rows.map((r) => r[i].length)));
  const clicks = value('counted_clicks', 'value');
  const views = value('counted_views', 'value');
  const lines = [title, '', ...rows.map((r) => r.map((c, i) => (i ? c.padStart(widths[i]) : c.padEnd(widths[i]))).join('  ')), ''];
  if (data.metrics.counted_clicks) {
    lines.push(`answered  ${thousands(clicks + value('uncounted_clicks', 'count'))} clicks, ${thousands(views + value('uncounted_views', 'count'))} views`);
    lines.push(`counted   ${thousands(clicks)} clicks, ${thousands(views)} views, all classes together`);
  } else {
    lines.push('counted   not known: Spillway did not say');
  }
  lines.push(`failed    ${thousands(value('http_req_failed', 'passes'))} of ${thousands(value('http_reqs', 'count'))} requests, in ${(data.state.testRunDurationMs / 1000).toFixed(0)} s`);
  lines.push(`missing   ${thousands(value('dropped_iterations', 'count'))} visitors who could not come`);
  if (more) lines.push(more(data));
  const met = [];
  const missed = [];
  for (const [name, metric] of Object.entries(data.metrics)) {
    for (const [threshold, result] of Object.entries(metric.thresholds || {})) {
      const field = threshold.split(/[<>=]/)[0].trim();
      const was = metric.values[field];
      let why = explained[name.replace(/\{.*/, '')] || 'see above';
      if (typeof why === 'function') why = why(was);
      if (result.ok) met.push(`  met     ${name} ${threshold}`);
      else missed.push(`  MISSED  ${name} ${threshold}${was === undefined ? '' : `, was ${Number(was.toFixed(4))}`}: ${why}`);
    }
  }
  lines.push('', ...missed.sort(), ...met.sort(), '', missed.length ? `${missed.length} of ${missed.length + met.length} thresholds missed` : 'all thresholds met');
  const out = { stdout: `\n${lines.map((l) => (l ? `  ${l}` : '')).join('\n')}\n\n` };
  if (__ENV.SUMMARY) out[__ENV.SUMMARY] = JSON.stringify(data, null, 2);
  return out;
};
