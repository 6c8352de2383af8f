// Ever more visitors until something gives: from a tenth of MOST to MOST a second within DURATION. It ends at the first threshold that is
// missed; the rate at that moment is what this machine can do, k6 included. So a missed threshold is what it is run for.
import { click, counted, profile, seconds, summary, summaryTrendStats, thresholds } from './spillway.js';

const most = Number(__ENV.MOST || 20000);
const first = Math.ceil(most / 10);
const length = seconds(__ENV.DURATION || '5m');
const until = (threshold) => [{ threshold, abortOnFail: true, delayAbortEval: '10s' }];

export const options = {
  scenarios: {
    ramp: {
      executor: 'ramping-arrival-rate',
      startRate: first,
      timeUnit: '1s',
      preAllocatedVUs: Math.min(first + 50, 2000),
      stages: [{ target: most, duration: `${length}s` }],
      gracefulStop: '10s',
    },
  },
  thresholds: {
    ...thresholds({}),
    checks: until('rate>0.999'),
    http_req_failed: until('rate<0.001'),
    'http_req_duration{name:click}': until('p(99)<250'),
    dropped_iterations: until('count<100'),
    // Whoever was on the way when it ended may be counted without having heard the answer.
    uncounted_clicks: ['count<=0'],
  },
  summaryTrendStats,
};

export const setup = () => profile(20);

export default function (p) {
  click(p.codes[Math.floor(Math.random() * p.codes.length)]);
}

export const teardown = counted;

// reached is the rate at which it ended. Whatever came is n after t seconds: first × t + (most − first) × t² / (2 × length).
function reached(data) {
  const came = data.metrics.iterations ? data.metrics.iterations.values.count : 0;
  const dropped = data.metrics.dropped_iterations ? data.metrics.dropped_iterations.values.count : 0;
  const slope = (most - first) / length;
  const rate = Math.sqrt(first * first + 2 * slope * (came + dropped));
  return rate >= 0.99 * most ? `reached   ${most} a second, and nothing gave: raise MOST` : `reached   ${Math.round(rate)} a second, of ${most}, when it ended`;
}

export const handleSummary = summary(`Breakpoint: from ${first} to ${most} clicks a second within ${length} s, until a threshold is missed`, reached);
