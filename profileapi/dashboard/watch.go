package dashboard

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"spillway.dev/profileapi/live"
)

// watch tells an open page when its numbers have changed, and up to when they are complete.
func (d *Dashboard) watch(w http.ResponseWriter, r *http.Request, v viewer) error {
	states, stop, err := d.Hub.Watch(v.ID)
	if errors.Is(err, live.ErrFull) {
		w.Header().Set("Retry-After", "10")
		return &refusal{http.StatusServiceUnavailable, "Too many watch already", "Reload the page instead."}
	}
	if err != nil {
		return err
	}
	defer stop()
	location := v.zone()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	control := http.NewResponseController(w)
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	// Of a connection that was lost, the numbers may have been fetched or not: they are fetched again.
	seen := ""
	if r.Header.Get("Last-Event-ID") == "" {
		seen = r.URL.Query().Get("seen")
	}
	last, through := "", ""
	for first := true; ; first = false {
		message := ": here\n\n"
		if first {
			message = "retry: 1000\n\n"
		} else {
			select {
			case state := <-states:
				id := fmt.Sprint(state.ID)
				if len(state.Events) > 0 {
					// The list of visits may come a moment after the numbers: the page is read again for it.
					id += "." + state.Events[0].Name()
				}
				message = ""
				// A page that was just made shows the numbers of the first state already, and what happened before they were counted.
				if id != last && fmt.Sprint(state.ID) != seen {
					message = "event: changed\nid: " + id + "\ndata: {}\n\n"
				}
				last = id
				if state.Through != nil {
					if text := throughText(*state.Through, time.Now().In(location)); text != through {
						through = text
						message += "event: through\ndata: " + text + "\n\n"
					}
				}
				if message == "" {
					continue
				}
			case <-beat.C:
			case <-r.Context().Done():
				return nil
			case <-d.Stopping:
				return nil
			}
		}
		if err := control.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return nil
		}
		if _, err := w.Write([]byte(message)); err != nil || control.Flush() != nil {
			return nil
		}
	}
}
