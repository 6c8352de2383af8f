// One link goes viral: fifty times as many visitors within three seconds. RATE is the rate before; FACTOR and HOLD the spike.
import { click, counted, profile, seconds, summary, summaryTrendStats, thresholds } from './spillway.js';

const rate = Number(__ENV.RATE || 20);
const most = rate * Number(__ENV.FACTOR || 50);

export const options = {
  scenarios: {
    spike: {
      executor: 'ramping-arrival-rate',
      startRate: rate,
      timeUnit: '1s',
      preAllocatedVUs: Math.ceil(most / 4) + 20,
      stages: [
        { target: rate, duration: '5s' },
        { target: most, duration: '3s' },
        { target: most, duration: `${seconds(__ENV.HOLD || 20)}s` },
        { target: rate, duration: '3s' },
        { target: rate, duration: '5s' },
      ],
    },
  },
  thresholds: thresholds({}),
  summaryTrendStats,
};

export const setup = () => profile(1);

export default function (p) {
  click(p.codes[0], { Referer: 'https://www.tiktok.com/' });
}

export const teardown = counted;

export const handleSummary = summary(`Spike: from ${rate} to ${most} clicks a second on one link, within 3 s`);
