// A minute's check after a deployment: every kind of request is answered, and what was answered is counted, no more and no less.
import { click, counted, insights, profile, summary, summaryTrendStats, thresholds, view } from './spillway.js';

const visits = 200;

export const options = {
  scenarios: { visitors: { executor: 'shared-iterations', vus: 4, iterations: visits, maxDuration: '1m' } },
  thresholds: thresholds({ 'http_req_duration{name:page}': ['p(99)<250'], 'http_req_duration{name:insights}': ['p(99)<2000'] }),
  summaryTrendStats,
};

export const setup = () => profile(3);

export default function (p) {
  view(p.handle);
  click(p.codes[Math.floor(Math.random() * p.codes.length)], { Referer: 'https://www.instagram.com/' });
}

export function teardown(p) {
  counted(p);
  insights(p.id, '?period=24h');
}

export const handleSummary = summary(`Smoke: ${visits} views and ${visits} clicks, each counted once`);
