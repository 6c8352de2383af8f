package pump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// Closed keeps every connection busy.
func Closed(ctx context.Context, o Options) (*Result, error) { return run(ctx, o, false) }

// Open asks when visitors come.
func Open(ctx context.Context, o Options) (*Result, error) { return run(ctx, o, true) }

// largest answer, header included.
const largest = 256 << 10

type connection struct {
	fd     int
	asked  time.Time
	got    int // bytes of the answer
	need   int // bytes of the whole answer; 0: not known yet
	status int
	buffer []byte
}

type pump struct {
	Options
	result      *Result
	epoll       int
	timer       int
	connections []*connection
	free        []*connection
	waiting     []time.Time // visitors for whom no connection was free, when they came
	busy        int
	next        int // request
	sent        int
	address     syscall.Sockaddr
}

func run(ctx context.Context, o Options, open bool) (*Result, error) {
	if err := o.check(open); err != nil {
		return nil, err
	}
	type outcome struct {
		result *Result
		err    error
	}
	done := make(chan outcome)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and what was changed about it
		p := &pump{Options: o, result: newResult(), epoll: -1, timer: -1}
		err := p.run(ctx, open)
		p.close()
		done <- outcome{p.result, err}
	}()
	end := <-done
	if end.err != nil {
		return nil, fmt.Errorf("pump %s: %w", o.Address, end.err)
	}
	return end.result, nil
}

func (p *pump) run(ctx context.Context, open bool) error {
	if p.Processor >= 0 {
		var mask [16]uint64
		mask[p.Processor/64] = 1 << (p.Processor % 64)
		if _, _, no := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask))); no != 0 {
			return fmt.Errorf("bind to processor %d: %w", p.Processor, no)
		}
	}
	// Before the brokers and databases that share its processor. Without the right to it, it is measured all the same.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), -15)
	if err := p.open(); err != nil {
		return err
	}
	began := time.Now()
	err := p.drive(ctx, began, open)
	p.result.Took = time.Since(began)
	return err
}

func (p *pump) open() (err error) {
	tcp, err := net.ResolveTCPAddr("tcp", p.Address)
	if err != nil {
		return err
	}
	if ip := tcp.IP.To4(); ip != nil {
		p.address = &syscall.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(ip)}
	} else {
		p.address = &syscall.SockaddrInet6{Port: tcp.Port, Addr: [16]byte(tcp.IP)}
	}
	if p.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	timer, _, no := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, 1 /* CLOCK_MONOTONIC */, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if no != 0 {
		return fmt.Errorf("timer: %w", no)
	}
	p.timer = int(timer)
	if err := p.watch(p.timer, -1); err != nil {
		return err
	}
	for i := range p.Connections {
		c := &connection{fd: -1, buffer: make([]byte, 16<<10)}
		p.connections = append(p.connections, c)
		if err := p.connect(i); err != nil {
			return err
		}
		p.free = append(p.free, c)
	}
	return nil
}

func (p *pump) watch(fd, index int) error {
	e := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(index)} // the index stands where the kernel keeps a word of ours
	if err := syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (p *pump) connect(i int) error {
	c := p.connections[i]
	if c.fd >= 0 {
		_ = syscall.Close(c.fd)
	}
	family := syscall.AF_INET
	if _, six := p.address.(*syscall.SockaddrInet6); six {
		family = syscall.AF_INET6
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd = fd
	if err := syscall.Connect(fd, p.address); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if err := errors.Join(syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1), syscall.SetNonblock(fd, true)); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return p.watch(fd, i)
}

func (p *pump) close() {
	for _, c := range p.connections {
		if c.fd >= 0 {
			_ = syscall.Close(c.fd)
		}
	}
	for _, fd := range []int{p.timer, p.epoll} {
		if fd >= 0 {
			_ = syscall.Close(fd)
		}
	}
}

// patience is how long is waited for the last answers.
const patience = 5 * time.Second

func (p *pump) drive(ctx context.Context, began time.Time, open bool) error {
	random := rand.New(rand.NewPCG(p.Seed, 0x5b111a))
	end := began.Add(p.Duration)
	due := began
	if !open {
		for len(p.free) > 0 && p.more() {
			if err := p.ask(time.Now()); err != nil {
				return err
			}
		}
	}
	events := make([]syscall.EpollEvent, 256)
	for ctx.Err() == nil {
		now := time.Now()
		over := !now.Before(end) || !open && !p.more()
		if open && !over {
			for ; !due.After(now); due = due.Add(time.Duration(random.ExpFloat64() / p.Rate * float64(time.Second))) {
				if len(p.free) == 0 {
					p.waiting = append(p.waiting, due)
					continue
				}
				p.result.Late = max(p.result.Late, now.Sub(due))
				if err := p.ask(due); err != nil {
					return err
				}
			}
		}
		if over && p.busy == 0 && len(p.waiting) == 0 {
			return nil
		}
		if now.Sub(end) > patience {
			p.result.Lost += int64(p.busy + len(p.waiting))
			return nil
		}
		n, err := syscall.EpollWait(p.epoll, events, p.pause(time.Until(due), open && !over))
		if err != nil && err != syscall.EINTR {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd < 0 {
				var fired [8]byte
				_, _ = syscall.Read(p.timer, fired[:]) // whatever it says, its time has come
				continue
			}
			if err := p.receive(int(e.Fd), open, end); err != nil {
				return err
			}
		}
	}
	return nil
}

// pause returns the milliseconds that epoll may wait. The timer ends it when the next visitor comes; if that is soon, nothing waits.
func (p *pump) pause(until time.Duration, open bool) int {
	const soon = 20 * time.Microsecond
	switch {
	case !open:
		return 10
	case until < soon:
		return 0
	}
	next := [2]syscall.Timespec{1: syscall.NsecToTimespec(int64(until))}
	_, _, _ = syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(p.timer), 0, uintptr(unsafe.Pointer(&next)), 0, 0, 0) // else the pause ends it
	return 10
}

// more says whether there is anything left to ask.
func (p *pump) more() bool { return !p.Once || p.sent < len(p.Requests) }

// ask sends the next request for a visitor who came at a time.
func (p *pump) ask(came time.Time) error {
	c := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	request := p.Requests[p.next]
	if p.next++; p.next == len(p.Requests) {
		p.next = 0
	}
	c.asked, c.got, c.need = came, 0, 0
	p.busy++
	p.sent++
	if n, err := syscall.Write(c.fd, request); err != nil || n < len(request) {
		return fmt.Errorf("send a request: %d of %d bytes: %w", n, len(request), err)
	}
	return nil
}

// receive reads what has come on a connection.
func (p *pump) receive(i int, open bool, end time.Time) error {
	c := p.connections[i]
	if c.got == len(c.buffer) {
		if len(c.buffer) >= largest {
			return fmt.Errorf("an answer is larger than %d bytes", largest)
		}
		c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
	}
	n, err := syscall.Read(c.fd, c.buffer[c.got:])
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
		return nil
	case err != nil || n <= 0:
		p.result.Lost++
		if err := p.connect(i); err != nil {
			return err
		}
		return p.release(c, open, end)
	}
	c.got += n
	if c.need == 0 {
		if err := c.header(); err != nil || c.need == 0 {
			return err
		}
	}
	if c.got < c.need {
		return nil
	}
	_ = p.result.Waits.RecordValue(int64(time.Since(c.asked))) // beyond a minute it stands as lost anyway
	if c.status == p.Wanted {
		p.result.Answered++
	} else {
		p.result.Refused++
	}
	return p.release(c, open, end)
}

func (p *pump) release(c *connection, open bool, end time.Time) error {
	p.busy--
	p.free = append(p.free, c)
	switch {
	case open && len(p.waiting) > 0:
		came := p.waiting[0]
		p.waiting = p.waiting[1:]
		return p.ask(came)
	case !open:
		if now := time.Now(); now.Before(end) && p.more() {
			return p.ask(now)
		}
	}
	return nil
}

// header finds out how long the answer is, once its header is there.
func (c *connection) header() error {
	header, _, whole := bytes.Cut(c.buffer[:c.got], []byte("\r\n\r\n"))
	if !whole {
		return nil
	}
	if len(header) < 12 || !bytes.HasPrefix(header, []byte("HTTP/1.1 ")) {
		return fmt.Errorf("%.40q is no answer of HTTP/1.1", header)
	}
	_, rest, found := bytes.Cut(header, []byte("\r\nContent-Length: "))
	if !found {
		return fmt.Errorf("an answer has no Content-Length: %.300q", header)
	}
	digits, _, _ := bytes.Cut(rest, []byte("\r\n"))
	length, err := strconv.Atoi(string(digits))
	if err != nil {
		return fmt.Errorf("an answer's Content-Length is %q", digits)
	}
	if c.status, err = strconv.Atoi(string(header[9:12])); err != nil {
		return fmt.Errorf("%.40q is no answer of HTTP/1.1", header)
	}
	c.need = len(header) + 4 + length
	return nil
}
