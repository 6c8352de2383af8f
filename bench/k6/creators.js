// Creators read their dashboards while one of them goes viral: the spike must not keep them from their numbers, nor they the visitors.
import { sleep } from 'k6';
import { click, counted, insights, profile, seconds, summary, summaryTrendStats, thresholds, view } from './spillway.js';

const rate = Number(__ENV.RATE || 20);
const most = rate * Number(__ENV.FACTOR || 50);
const creators = Number(__ENV.CREATORS || 5);
const hold = seconds(__ENV.HOLD || 20);

export const options = {
  scenarios: {
    spike: {
      executor: 'ramping-arrival-rate',
      exec: 'visitor',
      startRate: rate,
      timeUnit: '1s',
      preAllocatedVUs: Math.ceil(most / 4) + 20,
      stages: [
        { target: rate, duration: '3s' },
        { target: most, duration: '3s' },
        { target: most, duration: `${hold}s` },
      ],
    },
    creators: { executor: 'constant-vus', exec: 'creator', vus: creators, duration: `${hold + 6}s` },
  },
  thresholds: thresholds({ 'http_req_duration{name:page}': ['p(99)<250'], 'http_req_duration{name:insights}': ['p(99)<2000'] }),
  summaryTrendStats,
};

export const setup = () => profile(5);

export function visitor(p) {
  if (Math.random() < 0.2) view(p.handle);
  else click(p.codes[0]);
}

export function creator(p) {
  insights(p.id, ['?period=24h', '?period=30d', '?period=90d', '?period=24h&compare=previous'][Math.floor(Math.random() * 4)]);
  sleep(Math.random() + 0.5);
}

export const teardown = counted;

export const handleSummary = summary(`Creators: ${creators} read their numbers while visits go from ${rate} to ${most} a second`);
