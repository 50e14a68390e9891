package sysfd_test

import (
	"testing"

	"github.com/fdkit/fdkit/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }
