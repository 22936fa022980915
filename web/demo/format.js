// Figures for people.

export function bytes(count) {
  const units = ['bytes', 'KB', 'MB', 'GB'];
  let unit = 0;
  for (; count >= 1000 && unit < 3; unit++) count /= 1000;
  return `${count.toFixed(unit > 1 && count < 100 ? (unit === 3 ? 2 : 1) : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

/** `120 MB of 290 MB · 18 MB/s · 9 s left` */
export function transfer({ done, total, bytesPerSecond }) {
  const parts = [total ? `${bytes(done)} of ${bytes(total)}` : bytes(done)];
  if (bytesPerSecond) parts.push(`${bytes(bytesPerSecond)}/s`);
  if (bytesPerSecond && total > done) parts.push(`${duration((total - done) / bytesPerSecond)} left`);
  return parts.join(' · ');
}
