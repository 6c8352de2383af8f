// A fresh link is posted to a large group: hundreds of preview fetchers ask for it within a second, before any person does. They are
// answered, and no creator's number moves.
import exec from 'k6/execution';
import { click, counted, profile, summary, summaryTrendStats, thresholds } from './spillway.js';

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
  thresholds: thresholds({ 'http_req_duration{name:click}': ['p(99)<1000'], counted_clicks_of_people: ['value==0'] }),
  summaryTrendStats,
};

export const setup = () => profile(1);

export default function (p) {
  const n = exec.vu.idInTest + exec.vu.iterationInScenario;
  click(p.codes[0], { 'User-Agent': agents[n % agents.length], method: n % 3 === 0 ? 'HEAD' : 'GET' });
}

export const teardown = counted;

export const handleSummary = summary(`Previews: ${fetchers} preview fetchers at once on a fresh link, three requests each`);
