// Keeps the page's sockets, and puts frames into them as the network would, for 50 jobs at a time.
(() => {
  const Plain = window.WebSocket, sockets = [];
  window.WebSocket = class extends Plain { constructor(url) { super(url); sockets.push(this); } };
  let timer = 0;
  window.feed = (path, jobs, group, seconds, from, to) => {
    clearInterval(timer);
    const start = performance.now();
    const put = (frame) => {
      const data = JSON.stringify(frame);
      for (const socket of sockets) {
        if (socket.url.includes(path)) socket.onmessage(new MessageEvent("message", { data }));
      }
    };
    const thrown = path.includes("monitor");  // together, four times a second
    timer = setInterval(() => {
      const part = Math.min((performance.now() - start) / seconds / 1000, 1);
      const percent = from + (to - from) * part;
      if (thrown) put({ type: "progress", children: jobs.map((job) => [group, job, percent]) });
      else for (const job of jobs) put({ type: "child_progress", job_id: job, progress: percent,
        current_step: "KSampler", steps_completed: Math.round(percent / 5), steps_total: 20 });
    }, thrown ? 250 : 100);
  };
})();
