package port_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/standalone/port"
)

func TestATakenPortIsExplained(t *testing.T) {
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer holder.Close()
	address := holder.Addr().String()
	_, err = net.Listen("tcp", address)
	require.Error(t, err)
	err = port.Cure{What: "ClickHouse", Flag: "--clickhouse-listen", Env: "SPILLWAY_CLICKHOUSE_LISTEN"}.Explain(address, err)
	require.ErrorContains(t, err, address)
	require.ErrorContains(t, err, "--clickhouse-listen or SPILLWAY_CLICKHOUSE_LISTEN")
	require.NotContains(t, err.Error(), "\n")
	if runtime.GOOS == "linux" {
		require.ErrorContains(t, err, fmt.Sprintf("process %d (", os.Getpid()))
	}
}

func TestAFreePortHasNoOwner(t *testing.T) {
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := holder.Addr().String()
	require.NoError(t, holder.Close())
	require.Empty(t, port.Owner(address))
}
