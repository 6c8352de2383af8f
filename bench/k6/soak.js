// The same load for long, so that what leaks shows: RATE visits a second for DURATION.
import { click, profile, summary, summaryTrendStats, thresholds, view } from './spillway.js';

const rate = Number(__ENV.RATE || 200);

export const options = {
  scenarios: {
    soak: { executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration: __ENV.DURATION || '30m', preAllocatedVUs: Math.ceil(rate / 4) + 10 },
  },
  thresholds: thresholds({ 'http_req_duration{name:page}': ['p(99)<250'] }),
  summaryTrendStats,
};

export const setup = () => profile(20);

export default function (p) {
  if (Math.random() < 0.3) view(p.handle);
  else click(p.codes[Math.floor(Math.random() * Math.random() * p.codes.length)]);
}

export const handleSummary = summary;
