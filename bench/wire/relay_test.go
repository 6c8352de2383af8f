package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo answers each line with the same line.
func echo(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func ask(conn net.Conn, within time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("got %q", line)
	}
	return err
}

func TestRelayFaults(t *testing.T) {
	r, err := NewRelay(echo(t))
	require.NoError(t, err)
	defer r.Close()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", r.Address())
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := dial()
	require.NoError(t, ask(conn, time.Minute))

	r.Delay(60 * time.Millisecond)
	began := time.Now()
	require.NoError(t, ask(conn, time.Minute))
	require.GreaterOrEqual(t, time.Since(began), 120*time.Millisecond)

	r.Heal()
	r.Stick()
	require.ErrorContains(t, ask(conn, 50*time.Millisecond), "timeout")
	r.Heal()
	require.NoError(t, ask(dial(), time.Minute))

	conn = dial()
	require.NoError(t, ask(conn, time.Minute))
	require.Positive(t, r.Reset())
	require.ErrorContains(t, ask(conn, time.Minute), "reset")
	require.NoError(t, ask(dial(), time.Minute))

	r.Away()
	away, err := net.Dial("tcp", r.Address()) // the reset may come before the connection is made, or after
	if err == nil {
		err = ask(away, time.Minute)
		require.NoError(t, away.Close())
	}
	require.Error(t, err)
	r.Heal()
	require.NoError(t, ask(dial(), time.Minute))

	r.Aim(echo(t))
	require.NoError(t, ask(dial(), time.Minute))
}

func TestRelayEndsOrderly(t *testing.T) {
	r, err := NewRelay(echo(t))
	require.NoError(t, err)
	defer r.Close()
	conn, err := net.Dial("tcp", r.Address())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "last words")
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	words, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "last words", string(words))
}
