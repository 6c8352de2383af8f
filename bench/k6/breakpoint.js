// Ever more visitors until something gives: from a tenth of MOST to MOST a second within DURATION. It ends at the first threshold that is
// missed; the rate at that moment is what this machine can do, k6 included.
import { click, profile, summary, summaryTrendStats } from './spillway.js';

const most = Number(__ENV.MOST || 20000);
const until = (threshold) => [{ threshold, abortOnFail: true, delayAbortEval: '2s' }];

export const options = {
  scenarios: {
    ramp: {
      executor: 'ramping-arrival-rate',
      startRate: Math.ceil(most / 10),
      timeUnit: '1s',
      preAllocatedVUs: Math.min(Math.ceil(most / 10) + 50, 2000),
      stages: [{ target: most, duration: __ENV.DURATION || '5m' }],
    },
  },
  thresholds: {
    http_req_failed: until('rate<0.001'),
    'http_req_duration{name:click}': until('p(99)<250'),
    dropped_iterations: until('count<100'),
  },
  summaryTrendStats,
};

export const setup = () => profile(20);

export default function (p) {
  click(p.codes[Math.floor(Math.random() * p.codes.length)]);
}

export const handleSummary = summary;
