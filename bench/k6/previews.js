// A fresh link is posted to a large group: hundreds of preview fetchers ask for it within a second, before any person does. They are
// answered, and no creator's number moves.
import exec from 'k6/execution';
import { sleep } from 'k6';
import { click, insights, profile, summary, summaryTrendStats, thresholds } from './spillway.js';

const fetchers = Number(__ENV.FETCHERS || 300);
const agents = [
  'facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)',
  'WhatsApp/2.23.20.0',
  'TelegramBot (like TwitterBot)',
  'Twitterbot/1.0',
  'Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)',
  'LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)',
  'Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)',
];

export const options = {
  scenarios: { stampede: { executor: 'per-vu-iterations', vus: fetchers, iterations: 3, maxDuration: '1m' } },
  thresholds: thresholds({ 'http_req_duration{name:click}': ['p(99)<1000'] }),
  summaryTrendStats,
};

export const setup = () => profile(1);

export default function (p) {
  const n = exec.vu.idInTest + exec.vu.iterationInScenario;
  click(p.codes[0], { 'User-Agent': agents[n % agents.length], method: n % 3 === 0 ? 'HEAD' : 'GET' });
}

export function teardown(p) {
  let people;
  let previews;
  for (let i = 0; i < 100; i++) {
    const numbers = insights(p.id);
    people = numbers.lifetime.clicks;
    previews = ['preview', 'head', 'bot'].reduce((sum, c) => sum + ((numbers.by_class[c] || {}).clicks || 0), 0);
    if (people > 0 || previews === 3 * fetchers) break;
    sleep(0.1);
  }
  if (people > 0 || previews !== 3 * fetchers) exec.test.fail(`${people} clicks of people and ${previews} of ${3 * fetchers} fetchers were counted`);
}

export const handleSummary = summary;
