// The same load for long, so that what leaks shows: RATE visits a second for DURATION.
import { click, counted, profile, seconds, summary, summaryTrendStats, thresholds, view } from './spillway.js';

const rate = Number(__ENV.RATE || 200);
const length = seconds(__ENV.DURATION || '30m');

export const options = {
  scenarios: {
    soak: { executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration: `${length}s`, preAllocatedVUs: Math.ceil(rate) + 10 },
  },
  thresholds: thresholds({ 'http_req_duration{name:page}': ['p(99)<250'] }),
  summaryTrendStats,
};

export const setup = () => profile(20);

export default function (p) {
  if (Math.random() < 0.3) view(p.handle);
  else click(p.codes[Math.floor(Math.random() * Math.random() * p.codes.length)]);
}

export const teardown = counted;

export const handleSummary = summary(`Soak: ${rate} visits a second for ${length} s`);
