//! Tables and columns that the replica monitors.

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    Boolean,
    Reference,
    TextMap,
    /// Integer to UUID of a row.
    ReferenceMap,
}

impl Kind {
    /// The key and value types, as a schema names them.
    pub(crate) fn atomic(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Text => ("string", None),
            Self::Integer => ("integer", None),
            Self::Boolean => ("boolean", None),
            Self::Reference => ("uuid", None),
            Self::TextMap => ("string", Some("string")),
            Self::ReferenceMap => ("integer", Some("uuid")),
        }
    }

    pub(crate) fn is_map(self) -> bool {
        matches!(self, Self::TextMap | Self::ReferenceMap)
    }
}

/// Whether a database can be used without a table or column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    /// Older and newer servers may not have it.
    Optional,
}

#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) need: Need,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    pub(crate) columns: &'static [Column],
}

/// Makes a module per table with the position of each column and the table's description.
macro_rules! tables {
    ($($module:ident $table:literal $table_need:ident { $($id:ident $column:literal $kind:ident $need:ident,)+ })+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Position { $($module),+ }

        /// Every table, at the position its module calls `TABLE`.
        pub(crate) const TABLES: &[Table] = &[$(Table {
            name: $table,
            need: Need::$table_need,
            columns: &[$(Column { name: $column, kind: Kind::$kind, need: Need::$need }),+],
        }),+];

        $(pub(crate) mod $module {
            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            enum Position { $($id),+ }
            pub(crate) const TABLE: usize = super::Position::$module as usize;
            $(pub(crate) const $id: usize = Position::$id as usize;)+
        })+
    };
}

tables! {
    open_vswitch "Open_vSwitch" Required {
        BRIDGES "bridges" Reference Required,
        OVS_VERSION "ovs_version" Text Optional,
        DPDK_INITIALIZED "dpdk_initialized" Boolean Optional,
        DPDK_VERSION "dpdk_version" Text Optional,
        OTHER_CONFIG "other_config" TextMap Optional,
        EXTERNAL_IDS "external_ids" TextMap Optional,
        DATAPATH_TYPES "datapath_types" Text Optional,
        IFACE_TYPES "iface_types" Text Optional,
        CUR_CFG "cur_cfg" Integer Optional,
        NEXT_CFG "next_cfg" Integer Optional,
    }
    bridge "Bridge" Required {
        NAME "name" Text Required,
        PORTS "ports" Reference Required,
        DATAPATH_TYPE "datapath_type" Text Optional,
        DATAPATH_ID "datapath_id" Text Optional,
        FAIL_MODE "fail_mode" Text Optional,
        PROTOCOLS "protocols" Text Optional,
        CONTROLLER "controller" Reference Optional,
        FLOW_TABLES "flow_tables" ReferenceMap Optional,
        MCAST_SNOOPING_ENABLE "mcast_snooping_enable" Boolean Optional,
        OTHER_CONFIG "other_config" TextMap Optional,
        MIRRORS "mirrors" Reference Optional,
    }
    port "Port" Required {
        NAME "name" Text Required,
        INTERFACES "interfaces" Reference Required,
        TAG "tag" Integer Optional,
        TRUNKS "trunks" Integer Optional,
        VLAN_MODE "vlan_mode" Text Optional,
        OTHER_CONFIG "other_config" TextMap Optional,
    }
    interface "Interface" Required {
        NAME "name" Text Required,
        OFPORT "ofport" Integer Required,
        TYPE "type" Text Optional,
        ERROR "error" Text Optional,
        EXTERNAL_IDS "external_ids" TextMap Optional,
        MAC_IN_USE "mac_in_use" Text Optional,
        LINK_STATE "link_state" Text Optional,
        OPTIONS "options" TextMap Optional,
    }
    flow_table "Flow_Table" Optional {
        NAME "name" Text Optional,
        FLOW_LIMIT "flow_limit" Integer Optional,
        OVERFLOW_POLICY "overflow_policy" Text Optional,
    }
    mirror "Mirror" Optional {
        NAME "name" Text Optional,
        OUTPUT_PORT "output_port" Reference Optional,
        OUTPUT_VLAN "output_vlan" Integer Optional,
    }
    controller "Controller" Optional {
        TARGET "target" Text Optional,
        CONNECTION_MODE "connection_mode" Text Optional,
    }
}

/// The position and description of a table by its name.
pub(crate) fn table(name: &str) -> Option<(usize, &'static Table)> {
    TABLES.iter().enumerate().find(|(_, table)| table.name == name)
}

impl Table {
    /// The position and description of a column by its name.
    pub(crate) fn column(&self, name: &str) -> Option<(usize, &Column)> {
        self.columns
            .iter()
            .enumerate()
            .find(|(_, column)| column.name == name)
    }
}
